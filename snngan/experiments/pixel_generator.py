"""Figure 6: a generator trained in pixel space by the loss alone, its samples and a plane through its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from snngan.config import TrainConfig
from snngan.data.datasets import data_folder, load_dataset
from snngan.data.pictures import picture, save_png
from snngan.evaluation.report import read_metrics
from snngan.evaluation.small import trained_features
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.running import mean_interval, shown, trained
from snngan.training.sampling import draw, load_generator, plane, sample_images

FIGURES = {"FID": "features/fid", "entanglement score": "entanglement/input_score", "precision": "features/precision",
           "recall": "features/recall", "real anchors": "entanglement/real_anchors",
           "synthetic anchors": "entanglement/fake_anchors"}  # fmt: skip


@EXPERIMENTS.register("pixel-generator")
@dataclass(frozen=True, kw_only=True)
class PixelGenerator(Experiment):
    """Trains snnl-pixel in each form with several seeds; grids and planes are those of the first seed."""

    dataset: str
    forms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    batch_size: int
    options: tuple[str, ...] = ()

    source: ClassVar[str] = "Frosst et al. 2019, figure 6"
    summary: ClassVar[str] = "Images of a generator that only raises entanglement in pixel space, with no discriminator"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        name = setting.dataset or self.dataset
        dataset = load_dataset(name, data_dir=setting.data_dir, notify=setting.notify)
        trained_features(dataset, data_folder(setting.data_dir) / "features", setting.device, setting.notify)
        numbers: dict[str, Any] = {}
        figures = []
        for form in self.forms:
            logs = []
            for seed in self.seeds:
                config = TrainConfig(
                    dataset=name, data_dir=setting.data_dir, objective="snnl-pixel", seed=seed, steps=self.steps,
                    batch_size=self.batch_size, set=(f"form={form}", *self.options), evaluate_every=self.steps,
                    sample_every=self.steps, checkpoint_every=self.steps,
                )  # fmt: skip
                run = trained(config, dataset, setting.folder / "runs" / f"{form}-seed{seed}", setting)
                logs.append(read_metrics(run))
                if seed == self.seeds[0]:
                    generator = load_generator(run.path)
                    latents = {"samples": draw(100, run.latent_dim, 0), "plane": plane(run.latent_dim, 12, 0)}
                    for kind, noise in latents.items():
                        figures.append(setting.folder / f"{form}-{kind}.png")
                        save_png(picture(sample_images(generator, torch.as_tensor(noise))), figures[-1])
            numbers[form] = {title: mean_interval([log[tag][1][-1] for log in logs]) for title, tag in FIGURES.items()}
        return Finding(numbers, _text(numbers), figures)


PixelGenerator.presets = MappingProxyType(
    {
        "smoke": PixelGenerator(
            dataset="digits", forms=("chance-capped",), seeds=(0,), steps=6, batch_size=32, options=("width=16",)
        ),
        "cpu": PixelGenerator(
            dataset="mnist", forms=("chance-capped", "literal"), seeds=(0, 1, 2), steps=4000, batch_size=256
        ),
        "paper": PixelGenerator(
            dataset="mnist", forms=("chance-capped", "log-odds", "literal"), seeds=(0, 1, 2), steps=20000,
            batch_size=4096,
        ),
    }
)  # fmt: skip


def _text(numbers: Mapping[str, Any]) -> list[str]:
    lines = [
        "Mean over seeds at the last step (Student's 95 % interval); FID, precision and recall in the features of a "
        "small classifier, 1000 held-out images against 1000 samples. Chance for the anchors: 0.693.", "",
        f"| form | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|",
    ]  # fmt: skip
    for form, found in numbers.items():
        lines.append(f"| {form} | {' | '.join(shown(found[title]) for title in FIGURES)} |")
    return lines
