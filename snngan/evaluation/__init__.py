"""How good a generator is, and whether two sets of images can be told apart."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "AttackProtocol": "attack_evaluation",
        "Evaluation": "measure",
        "ImageSource": "sources",
        "compare_sources": "two_sample_report",
        "evaluate": "measure",
        "evaluate_classifier": "classifier",
        "frechet_distance": "frechet",
        "kernel_distance": "kernel",
        "load_classifier": "classifier",
        "neighbor_figures": "nearest_neighbors",
        "open_source": "sources",
    },
)
