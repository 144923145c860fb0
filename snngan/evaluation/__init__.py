"""How good a generator is, and whether two sets of images can be told apart."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "Evaluation": "measure",
        "ImageSource": "sources",
        "compare_sources": "comparison",
        "evaluate": "measure",
        "evaluate_classifier": "classifier",
        "frechet_distance": "frechet",
        "kernel_distance": "kernel",
        "neighbour_figures": "neighbours",
        "open_source": "sources",
    },
)
