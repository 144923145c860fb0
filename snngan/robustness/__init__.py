"""Attacks on any classifier, and deep k-nearest neighbors of its layers."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        **dict.fromkeys(("ATTACKS", "Attack", "bim", "fgsm", "parse_attack", "pgd"), "attacks"),
        **dict.fromkeys(("DkNN", "DkNNOutput"), "dknn"),
        "compute_activations": "activations",
    },
)
