"""Figure 6: a generator trained in pixel space by the loss alone, its samples and a plane through its latent space."""

from __future__ import annotations

from dataclasses import dataclass

from snngan.config import option
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.generators import MNIST, GeneratorExperiment, metrics_table, save_grid
from snngan.experiments.runs import sample_plane, sample_random


@EXPERIMENTS.register("pixel-generator")
@dataclass(frozen=True, kw_only=True)
class PixelGenerator(GeneratorExperiment):
    """Train snnl-pixel in each form."""

    source = "Frosst et al. 2019, figure 6"
    summary = "Images of a generator that only raises entanglement in pixel space, with no discriminator"

    forms: tuple[str, ...] = option(("chance-capped",), "forms of the loss")
    batch_size: int = option(32, "real images per step", low=2)

    presets = {
        "cpu": {**MNIST, "forms": ("chance-capped", "literal"), "steps": 2000, "batch_size": 256},
        "paper": {**MNIST, "forms": ("chance-capped", "log-odds", "literal"), "steps": 20000, "batch_size": 4096},
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        numbers, plots = {}, []
        grid_side, plane_side = (10, 12) if data.image_shape[0] == 1 else (8, 8)  # grids of color noise are large
        for form in self.forms:
            run, numbers[form] = self.train_seeds(
                form,
                data,
                context,
                objective="snnl-pixel",
                set=(f"form={form}", *self.options),
                batch_size=self.batch_size,
                metrics_every=self.steps,
            )
            plots.append(save_grid(sample_random(run, grid_side**2), context.folder / f"{form}-samples.png"))
            plots.append(save_grid(sample_plane(run, plane_side), context.folder / f"{form}-plane.png"))
        return ExperimentResult(numbers, metrics_table("form", numbers), plots)
