"""Training of generators and classifiers, their run folders and checkpoints."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "ClassifierTrainer": "classifier",
        "GanTrainer": "gan",
        "RunFolder": "run_folder",
        "Trainer": "trainer",
        "load_generator": "sampling",
        "resolve": "resolve",
        "train": "trainer",
    },
)
