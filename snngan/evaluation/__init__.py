"""Measure how good a generator is, and whether two sets of images can be told apart."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "AttackProtocol": "attack_evaluation",
        "Comparison": "two_sample_report",
        "Evaluation": "measure",
        "ImageSource": "sources",
        "Reader": "sources",
        "compare": "two_sample_report",
        "evaluate": "measure",
        "evaluate_classifier": "classifier",
        "evaluate_sources": "measure",
        "load_classifier": "classifier",
        "open_source": "sources",
    },
)
