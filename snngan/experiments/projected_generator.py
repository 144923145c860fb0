"""Figure 23: samples through the training of a generator against a discriminator that projects into a learned space."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snngan.config import option
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.generators import MNIST, GeneratorExperiment, metrics_table, save_grid
from snngan.experiments.runs import load_stage


@EXPERIMENTS.register("projected-generator")
@dataclass(frozen=True, kw_only=True)
class ProjectedGenerator(GeneratorExperiment):
    """Train snnl-projected in each form, and gan at the same learning rates."""

    source = "Frosst et al. 2019, figure 23"
    summary = "Samples through the training of snnl-projected, beside the classic GAN at the same rates"

    forms: tuple[str, ...] = option(("log-odds",), "forms of the loss")
    stages: tuple[int, ...] = option((3, 6), "steps at which samples are shown")

    presets = {
        "cpu": {**MNIST, "forms": ("log-odds", "literal"), "steps": 1500, "stages": (100, 500, 1000, 1500)},
        "paper": {**MNIST, "forms": ("log-odds", "literal"), "steps": 20000, "stages": (1000, 5000, 10000, 20000)},
    }

    def check(self) -> None:
        if not self.stages or not all(0 < stage <= self.steps for stage in self.stages):
            raise ValueError(f"stages must be steps from 1 to {self.steps}, got {self.stages}")

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        numbers, plots = {}, []
        num_shown = 64 if data.image_shape[0] == 1 else 36  # grids of color noise are large
        objectives = {form: ("snnl-projected", (f"form={form}",)) for form in self.forms} | {"gan": ("gan", ())}
        for title, (objective, settings) in objectives.items():
            run, numbers[title] = self.train_seeds(
                title,
                data,
                context,
                objective=objective,
                stages=self.stages,
                learning_rate=8e-4,
                set=("discriminator_learning_rate=0.0002", *settings, *self.options),
                metrics_every=math.gcd(*self.stages, self.steps),
            )
            for step in self.stages:
                images = load_stage(run, step)[:num_shown]
                plots.append(save_grid(images, context.folder / f"{title}-{step:06d}.png"))
        return ExperimentResult(numbers, metrics_table("objective, all at the same rates", numbers), plots)
