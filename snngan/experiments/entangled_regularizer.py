"""Table 1: test accuracy with and without entangled hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import Pair, compared, last_of, table_of_pairs

PAPER = {
    "mnist": ((98.83, 99.23), (98.82, 99.16)),
    "fashion-mnist": ((90.42, 91.48), (90.25, 91.06)),
    "cifar10": ((90.78, 91.22), (89.71, 89.90)),
}
"""Best and average of baseline and entangled test accuracy, in percent; SVHN's average is a misprint there."""


@EXPERIMENTS.register("entangled-regularizer")
@dataclass(frozen=True, kw_only=True)
class EntangledRegularizer(Pair, Experiment):
    """Trains a network with cross-entropy alone and with entanglement, the same seeds and steps for both."""

    source: ClassVar[str] = "Frosst et al. 2019, table 1"
    summary: ClassVar[str] = "Test accuracy with and without the entanglement of hidden layers as a regularizer"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        arch, logs = self.trained(setting)
        layers = [tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")]
        rows = {
            "test accuracy": compared(logs, last_of("accuracy/test")),
            "test cross-entropy": compared(logs, last_of("cross_entropy/test"), min),
            "calibration error": compared(logs, last_of("calibration_error/test"), min),
            **{f"entanglement of {tag.split('/')[-1]}": compared(logs, last_of(tag)) for tag in layers},
        }
        text = [
            f"{arch}, {self.seeds} seeds, {self.steps} steps each; at the last step, mean over seeds "
            "(Student's 95 % interval); the difference seed by seed, and the p-value of a paired t-test. Entanglement: "
            "the loss of held-out images at its optimal temperature, which says how far the regularizer reached.",
            "", *table_of_pairs(rows),
        ]  # fmt: skip
        if self.dataset in PAPER:
            best, average = PAPER[self.dataset]
            text += [
                "",
                f"The paper has, baseline and entangled: best {best[0]} % and {best[1]} %, "
                f"average {average[0]} % and {average[1]} %.",
            ]
        figure = plot_groups(logs, ("accuracy/test", "cross_entropy/test"), setting.folder / "curves.png")
        return Finding(dict(rows), text, [figure])


EntangledRegularizer.presets = MappingProxyType(
    {
        "smoke": EntangledRegularizer(
            dataset="digits", alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=3,
            options=("width=4", "units=16"),
        ),
        "cpu": EntangledRegularizer(
            dataset="mnist", alpha=-0.003, seeds=4, steps=1500, batch_size=256, learning_rate=1e-3, every=250,
            options=("width=32", "units=128"),
        ),
        "paper": EntangledRegularizer(
            dataset="mnist", alpha=-0.003, seeds=4, steps=14000, batch_size=256, learning_rate=1e-4, every=1000,
        ),
    }
)  # fmt: skip
