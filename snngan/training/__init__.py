"""Training of generators and classifiers, their run folders and checkpoints."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "classifier": "ClassifierTrainer",
        "gan": "GanTrainer",
        "resolve": "resolve",
        "run_folder": "RunFolder",
        "sampling": "load_generator",
        "trainer": "Trainer train",
    },
)
