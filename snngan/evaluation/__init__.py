"""Measure how good a generator is, and whether two sets of images can be told apart."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "attack_evaluation": "AttackProtocol",
        "classifier": "evaluate_classifier load_classifier",
        "measure": "Evaluation evaluate evaluate_sources",
        "sources": "ImageSource Reader open_source",
        "two_sample_report": "Comparison compare",
    },
)
