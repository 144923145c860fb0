"""Classifiers: one architecture per file."""
