"""Classifiers: one family of architectures per file."""
