"""Attacks on any classifier, and deep k-nearest neighbors of its layers."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "activations": "compute_activations",
        "attacks": "ATTACKS Attack bim fgsm parse_attack pgd",
        "dknn": "DkNN DkNNOutput",
    },
)
