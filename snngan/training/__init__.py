"""Training of generators and classifiers, their run folders and checkpoints."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "ClassifierRun": "run_folder",
        "GanRun": "run_folder",
        "load_generator": "sampling",
        "train_classifier": "classifier",
        "train_gan": "gan",
    },
)
