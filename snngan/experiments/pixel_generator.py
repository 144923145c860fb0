"""Figure 6: a generator trained in pixel space by the loss alone, its samples and a plane through its latent space."""

from __future__ import annotations

from dataclasses import dataclass

<<<<<<< HEAD
import torch

from snngan.config import TrainConfig
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.report import read_metrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.running import last_figures, table_of_figures, trained, with_features
from snngan.training.sampling import draw, load_generator, plane, sample_images
=======
from snngan.config import option
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.generators import MNIST, GeneratorExperiment, metrics_table, save_grid
from snngan.experiments.runs import sample_plane, sample_random
>>>>>>> b-experiments


@EXPERIMENTS.register("pixel-generator")
@dataclass(frozen=True, kw_only=True)
class PixelGenerator(GeneratorExperiment):
    """Train snnl-pixel in each form."""

    source = "Frosst et al. 2019, figure 6"
    summary = "Images of a generator that only raises entanglement in pixel space, with no discriminator"

    forms: tuple[str, ...] = option(("chance-capped",), "forms of the loss")
    batch_size: int = option(32, "real images per step", low=2)

<<<<<<< HEAD
    def run(self, setting: Setting) -> Finding:
        dataset = with_features(self.dataset, setting)
        numbers: dict[str, Any] = {}
        figures = []
        side, steps = (10, 12) if dataset.image_shape[0] == 1 else (8, 8)  # pictures of color noise are large
        for form in self.forms:
            logs = []
            for seed in self.seeds:
                config = TrainConfig(
                    dataset=self.dataset, data_dir=setting.data_dir, objective="snnl-pixel", seed=seed,
                    steps=self.steps, batch_size=self.batch_size, set=(f"form={form}", *self.options),
                    metrics_every=self.steps, sample_every=self.steps, checkpoint_every=max(1, self.steps // 10),
                )  # fmt: skip
                run = trained(config, dataset, setting.folder / "runs" / f"{form}-seed{seed}", setting)
                logs.append(read_metrics(run))
                if seed == self.seeds[0]:
                    generator = load_generator(run.path)
                    latents = {"samples": draw(side**2, run.latent_dim, 0), "plane": plane(run.latent_dim, steps, 0)}
                    for kind, noise in latents.items():
                        figures.append(setting.folder / f"{form}-{kind}.png")
                        save_png(draw_images(sample_images(generator, torch.as_tensor(noise))), figures[-1])
            numbers[form] = last_figures(logs)
        return Finding(numbers, table_of_figures("form", numbers), figures)


PixelGenerator.presets = MappingProxyType(
    {
        "smoke": PixelGenerator(
            dataset="digits", forms=("chance-capped",), seeds=(0,), steps=6, batch_size=32, options=("width=16",)
        ),
        "cpu": PixelGenerator(
            dataset="mnist", forms=("chance-capped", "literal"), seeds=(0, 1, 2), steps=2000, batch_size=256
        ),
        "paper": PixelGenerator(
            dataset="mnist", forms=("chance-capped", "log-odds", "literal"), seeds=(0, 1, 2), steps=20000,
            batch_size=4096,
        ),
=======
    presets = {
        "cpu": {**MNIST, "forms": ("chance-capped", "literal"), "steps": 2000, "batch_size": 256},
        "paper": {**MNIST, "forms": ("chance-capped", "log-odds", "literal"), "steps": 20000, "batch_size": 4096},
>>>>>>> b-experiments
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        numbers, plots = {}, []
        grid_side, plane_side = (10, 12) if data.image_shape[0] == 1 else (8, 8)  # grids of color noise are large
        for form in self.forms:
            run, numbers[form] = self.train_seeds(
                form, data, context, objective="snnl-pixel", set=(f"form={form}", *self.options),
                batch_size=self.batch_size, metrics_every=self.steps,
            )  # fmt: skip
            plots.append(save_grid(sample_random(run, grid_side**2), context.folder / f"{form}-samples.png"))
            plots.append(save_grid(sample_plane(run, plane_side), context.folder / f"{form}-plane.png"))
        return ExperimentResult(numbers, metrics_table("form", numbers), plots)
