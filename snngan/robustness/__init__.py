"""Attacks on any model, and deep k-nearest neighbors of its layers."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "Attack": "attack_rule",
        "DkNN": "dknn",
        "bim": "attacks",
        "fgsm": "attacks",
        "parse_attack": "attack_rule",
        "pgd": "attacks",
    },
)
