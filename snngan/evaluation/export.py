"""A run's generator for others: one file for Python, ONNX or torch.export, or a folder with a model card."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snngan.config import TrainConfig
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.report import read_evaluations
from snngan.files import read_json, write_atomically
from snngan.metrics import metric_values
from snngan.training.run_folder import RunFolder
from snngan.training.sampling import (
    build_ema_generator,
    class_rows,
    draw_labels,
    draw_latents,
    sample_images,
    save_generator,
)

SUFFIXES = (".safetensors", ".onnx", ".pt2")
GENERATOR, SAMPLES, CARD = "generator.safetensors", "samples.png", "README.md"
"""Files of a folder for a model hub."""
NUM_CHECKED = 1000
"""Images that an exported network must agree on with the original."""
TOLERANCE = 1e-3
"""Largest difference of a pixel in [-1, 1]."""


def export_generator(
    run: RunFolder[TrainConfig], path: Path, notify: Callable[[str], None], *, half: bool = False
) -> str:
    """Write the EMA generator of the newest checkpoint of an opened run; return in words what was written.

    Args:
        run: a run of a generator.
        path: a name ending in ``.safetensors`` (weights and config, for :func:`snngan.load_generator`), ``.onnx`` or
            ``.pt2`` (the program that torch.export saves); any other name becomes a folder with the first of these, a
            grid of samples and a model card. Networks take latents (N, latent_dim) and, if class-conditional, labels
            (N,), for any N, and return images (N, C, H, W) in [-1, 1].
        notify: called with each line worth telling the user.
        half: whether a safetensors file holds float16 weights.

    Raises:
        ValueError: there is no sound checkpoint, a package is missing, or an ONNX file gives other images.
        SaveError: a file cannot be written.
    """
    if path.suffix == ".safetensors":
        return f"generator of step {save_generator(run, path, notify, half=half)}"
    generator: Any = build_ema_generator(run, torch.device("cpu"), notify)
    step = f"generator of step {generator.step}"
    if path.suffix == ".pt2":
        file = io.BytesIO()
        torch.export.save(_trace(generator), file)
        write_atomically(path, file.getvalue())
        return step
    if path.suffix == ".onnx":
        write_atomically(path, _to_onnx(generator))
        return f"{step}; {_check_onnx(path, generator)}"
    path.mkdir(exist_ok=True)
    save_generator(run, path / GENERATOR, notify, half=half)
    save_png(_draw_samples(run.config, generator), path / SAMPLES)
    write_atomically(path / CARD, ("\n".join(_card(run, generator.step)) + "\n").encode())
    return f"{step}, {SAMPLES} and {CARD}"


def _inputs(generator: Any, count: int) -> tuple[Tensor, ...]:
    """Return latents (count, latent_dim) and, for a class-conditional generator, labels (count,)."""
    latents = draw_latents(count, generator.latent_dim, seed=0)
    return (latents, torch.arange(count) % generator.num_classes) if generator.num_classes else (latents,)


def _trace(generator: nn.Module) -> torch.export.ExportedProgram:
    """Return the generator as a program for any number of images."""
    inputs = _inputs(generator, 2)
    count = torch.export.Dim("count", min=1)
    return torch.export.export(generator, inputs, dynamic_shapes=tuple({0: count} for _ in inputs))


def _to_onnx(generator: nn.Module) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("ONNX files need the package onnxscript: pip install 'snngan[onnx]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that both inputs share one dynamic axis
        names = ["latents", "labels"][: len(_inputs(generator, 1))]
        program = torch.onnx.export(
            _trace(generator), input_names=names, output_names=["images"], dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


@torch.no_grad()
def _check_onnx(path: Path, generator: nn.Module) -> str:
    """Return how far images of an ONNX file are from those of the generator; raises ``ValueError`` if too far."""
    try:
        import onnxruntime
    except ImportError:
        return "not checked, for want of the package onnxruntime"
    inputs = _inputs(generator, NUM_CHECKED)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    images = session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0]
    difference = float(np.abs(images - generator(*inputs).numpy()).max())
    if not difference < TOLERANCE:
        raise ValueError(
            f"{path} gives other images than the generator: a pixel in [-1, 1] differs by {difference:.2g}"
        )
    return f"{NUM_CHECKED} images by onnxruntime differ by {difference:.1g} at most, of the range -1 to 1"


def _draw_samples(config: TrainConfig, generator: Any) -> Any:
    count = 100
    labels = class_rows(config.num_classes, 10) if config.conditional and not config.is_points else None
    if config.is_points:
        count, labels = 1000, draw_labels(1000, config.class_counts, seed=0)
    latents = draw_latents(count if labels is None else len(labels), generator.latent_dim, seed=0)
    return draw_images(sample_images(generator, latents, labels), columns=10)


def _card(run: RunFolder[TrainConfig], step: int) -> Iterator[str]:
    """Yield the lines of a model card in Markdown, as model hubs read it."""
    config, environment = run.config, read_json(run.path / "config.json")["environment"]
    data, shape = Path(config.dataset).name, "x".join(map(str, config.image_shape))
    names = ", ".join(map(config.class_name, range(config.num_classes))) if config.conditional else ""
    labels = f", torch.arange(16) % {config.num_classes}" if names else ""
    yield f"""---
library_name: snngan
tags: [image-generation, soft-nearest-neighbor-loss]
---

# {config.title} on {data}

![samples]({SAMPLES})

A generator of {"points" if config.is_points else f"images {shape}"}{f" of the classes {names}" if names else ""}.

```python
import torch, snngan

generator = snngan.load_generator("{GENERATOR}")
images = generator(torch.randn(16, generator.latent_dim){labels})  # (16, {shape.replace("x", ", ")}) in [-1, 1]
```

## Metrics
"""
    yield from _metrics(run) or ["Not measured; `snngan evaluate RUN` does."]
    yield f"\n## Training\n\nStep {step}, by snngan {environment['snngan']} and torch {environment['torch']}.\n"
    yield from ("| option | value |", "|---|---|")
    values = {**config.flat_values(), "dataset": data, "data_dir": None}
    yield from (f"| {name} | {value} |" for name, value in values.items() if value not in (None, ""))


def _metrics(run: RunFolder[TrainConfig]) -> list[str]:
    """Return the newest evaluation as a table, and how it was made."""
    evaluations = read_evaluations(run)
    if not evaluations:
        return []
    newest, known = evaluations[-1], metric_values()
    protocol = newest["protocol"]
    lines = [
        f"{protocol['num_fake']} images against {protocol['num_real']} of {protocol['real']}, in features "
        f"`{protocol['extractor'].rpartition('/')[2]}` ({protocol['extractor_digest'][:12]}, "
        f"{protocol['features']}-D, resize: {protocol['resize']}); step {protocol['step']}.",
        "",
        "| metric | value (95 % interval) | |",
        "|---|---|---|",
    ]
    for name, value in newest["metrics"].items():
        low, high = newest["intervals"].get(name, (None, None))
        interval = "" if low is None else f" ({low:.4g} to {high:.4g})"
        meaning = f"{known[name].title}, {known[name].direction}" if name in known else ""
        lines.append(f"| {name} | {value:.4g}{interval} | {meaning} |")
    return lines
