"""Training of generators and classifiers, their run folders and checkpoints."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "ClassifierFolder": "runlog",
        "RunFolder": "runlog",
        "load_generator": "sampling",
        "train_classifier": "classifier",
        "train_gan": "gan",
    },
)
