"""Images from a finished or running run: the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.checkpoint import build_to_fit, explain_mismatch, load_newest
from snngan.config import TrainConfig
from snngan.files import load_tensors, save_tensors
from snngan.registry import unknown_name
from snngan.seeds import seed_for
from snngan.training.resolve import (
    build_architecture,
    build_discriminator,
    build_generator,
    build_objective,
    check_names,
)
from snngan.training.run_folder import RunFolder, open_run

EXPORTED = "generator"
"""What the metadata of an exported file says that it is."""
PRETRAINED, PRETRAINED_FOLDER = "pretrained:", Path(__file__).parents[1] / "pretrained"
"""What names of the generators that come with snngan begin with, and where they are."""
CHUNK = 100
"""Images generated at a time, always so many, so that the first images do not depend on how many follow."""


def load_generator(
    run: str | Path, device: torch.device | str = "cpu", notify: Callable[[str], None] = lambda line: None
) -> nn.Module:
    """Return the EMA generator of a run, or of an exported file: a module that maps latents to images.

    It is in evaluation mode. Latents are (N, ``generator.latent_dim``), standard normal; images (N, C, H, W) in
    [-1, 1]. A class-conditional generator takes labels (N,) as second argument, 0 to ``generator.num_classes`` - 1; for
    others ``num_classes`` is 0. The checkpoint that it comes from is that of ``generator.step``.

    Args:
        run: the run's folder, a file that ``snngan export`` wrote, or ``pretrained:digits`` or ``pretrained:fashion``,
            which come with snngan.
        device: where the module is put.
        notify: called with a line for each damaged checkpoint that was passed over.

    Raises:
        ValueError: the folder is not a run's, or holds no sound checkpoint; or the file is damaged or another one; or
            no pretrained generator has the name.

    Example:
        >>> generator = load_generator("runs/0001-mnist-5k-snnl-features")  # doctest: +SKIP
        >>> images = generator(torch.randn(16, generator.latent_dim))  # doctest: +SKIP
    """
    return open_generator(run, torch.device(device), notify)[1]


def open_generator(
    run: str | Path, device: torch.device, notify: Callable[[str], None] = lambda line: None
) -> tuple[TrainConfig, nn.Module]:
    """Return the config of a generator, and the generator as :func:`load_generator` does."""
    path = Path(run)
    if str(run).startswith(PRETRAINED):
        path = PRETRAINED_FOLDER / f"{str(run).removeprefix(PRETRAINED)}.safetensors"
        if not path.is_file():
            known = sorted(each.stem for each in PRETRAINED_FOLDER.glob("*.safetensors"))
            raise unknown_name("pretrained generator", path.stem, known)
    if not path.is_file():
        opened = open_run(path, TrainConfig)
        return opened.config, build_ema_generator(opened, device, notify)
    weights, content = load_tensors(path)
    if not isinstance(content, dict) or content.get("kind") != EXPORTED:
        raise ValueError(f"{path} does not hold an exported generator: give a file of snngan export, or a run's folder")
    config = TrainConfig.from_json(content["config"])
    check_names(config)
    return config, _build(config, {"step": content["step"], "networks": {"ema_generator": weights}}, device)


def save_generator(
    run: RunFolder[TrainConfig], path: Path, notify: Callable[[str], None] = lambda line: None, *, half: bool = False
) -> int:
    """Write the EMA generator of an opened run as a safetensors file that :func:`load_generator` reads.

    The metadata hold the step, which is returned, and the config without the folder of the data. With ``half``,
    weights are float16 in the file, and float32 again when it is read.

    Raises:
        ValueError: there is no sound checkpoint.
        SaveError: the file could not be written.
    """
    state = load_newest(run.checkpoints, notify)
    config = {**run.config.to_json(), "data_dir": None}
    content = {"kind": EXPORTED, "step": state["step"], "config": config}
    weights = state["networks"]["ema_generator"]
    if half:
        weights = {name: each.half() if each.is_floating_point() else each for name, each in weights.items()}
    save_tensors(path, weights, content)
    return int(state["step"])


def build_ema_generator(
    run: RunFolder[TrainConfig], device: torch.device, notify: Callable[[str], None] = lambda line: None
) -> nn.Module:
    """Return the EMA generator of an opened run, as :func:`load_generator` does."""
    return _build(run.config, load_newest(run.checkpoints, notify), device)


def _build(config: TrainConfig, state: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Return the EMA generator of a checkpoint, with its facts as attributes."""
    generator: Any = _load_network("ema_generator", state, lambda: build_generator(config), device)
    generator.latent_dim, generator.step = build_architecture(config).latent_dim, state["step"]
    generator.num_classes = config.num_classes
    return generator  # type: ignore[no-any-return]


def load_discriminator(
    run: RunFolder[TrainConfig], device: torch.device, notify: Callable[[str], None] = lambda line: None
) -> nn.Module:
    """Return the discriminator of an opened run in evaluation mode: images (N, C, H, W) to (N, discriminator_dim)."""
    state, dim = load_newest(run.checkpoints, notify), build_objective(run.config).discriminator_dim
    assert dim is not None
    return _load_network("discriminator", state, lambda: build_discriminator(run.config, dim), device)


def _load_network(
    name: str, state: Mapping[str, Any], build: Callable[[], nn.Module], device: torch.device | str
) -> nn.Module:
    """Return the network ``name`` of a checkpoint, in evaluation mode."""
    with explain_mismatch(name):
        saved = state["networks"][name]
        with torch.random.fork_rng(devices=[]):
            network = build_to_fit(build, saved, name)
        network.load_state_dict(saved)
    return network.eval().requires_grad_(False).to(device)


@torch.no_grad()
def sample_images(generator: nn.Module, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the images (N, C, H, W) on the CPU that ``generator`` makes of ``latents`` (N, latent_dim).

    ``labels`` (N,) are those of a class-conditional generator.
    """
    device = next(generator.parameters()).device
    missing = -len(latents) % CHUNK
    inputs = [torch.cat([latents, latents.new_zeros(missing, latents.shape[1])])]
    if labels is not None:
        inputs.append(torch.cat([labels, labels.new_zeros(missing)]))
    chunks = zip(*(torch.split(each, CHUNK) for each in inputs), strict=True)
    return torch.cat([generator(*(each.to(device) for each in chunk)).cpu() for chunk in chunks])[: len(latents)]


def draw_latents(count: int, latent_dim: int, seed: int) -> Tensor:
    """Return standard normal latents (count, latent_dim); a longer draw of the same seed begins with the same rows."""
    return _draw(count, seed, "samples", lambda random: torch.randn(CHUNK, latent_dim, generator=random))


def truncate(latents: Tensor, limit: float) -> Tensor:
    """Return latents (N, latent_dim) of the normal distribution within ``limit`` of 0, each by its quantile.

    Images become more typical and less varied. Source: Brock et al. 2019, "Large Scale GAN Training", section 3.1,
    where values beyond are drawn again.
    """
    lowest = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
    shares = torch.special.ndtr(latents.double())
    truncated: Tensor = torch.special.ndtri(lowest + shares * (1 - 2 * lowest))
    return truncated.to(latents.dtype)


def draw_labels(count: int, class_counts: Sequence[int], seed: int) -> Tensor | None:
    """Return classes (count,), as frequent as in the training images; a longer draw begins with the same ones.

    Returns None where ``class_counts`` is empty: for a generator that is not class-conditional.
    """
    if not class_counts:
        return None
    weights = torch.tensor(class_counts, dtype=torch.float64)
    return _draw(count, seed, "labels", lambda random: torch.multinomial(weights, CHUNK, True, generator=random))


def _draw(count: int, seed: int, stream: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    random = torch.Generator().manual_seed(seed_for(seed, stream))
    return torch.cat([draw(random) for _ in range(-(-count // CHUNK))])[:count]


def class_rows(num_classes: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the labels (num_classes * columns,) of a grid that has a row for each class."""
    return torch.arange(num_classes, device=device).repeat_interleave(columns)


def find_class(config: TrainConfig, name: str) -> int:
    """Return the class called ``name`` or with that number; raises ``ValueError`` if there is none."""
    if not config.conditional:
        raise ValueError(f"--class {name}: the generator takes no class; train one with --conditional")
    names = [config.class_name(number) for number in range(config.num_classes)]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < config.num_classes:
        return int(name)
    raise unknown_name("class", name, names)


def latent_loops(latent_dim: int, count: int, frames: int, seed: int) -> Tensor:
    """Return latents (frames * count, latent_dim) on ``count`` closed ways through noise space, frame by frame.

    Each is a great circle through two random points of length sqrt(latent_dim), that of a typical draw.
    """
    random = torch.Generator().manual_seed(seed_for(seed, "loops"))
    first, second = torch.randn(2, count, latent_dim, generator=random, dtype=torch.float64)
    first = F.normalize(first, dim=1)
    second = F.normalize(second - (first * second).sum(1, keepdim=True) * first, dim=1)
    angles = torch.arange(frames, dtype=torch.float64)[:, None, None] * (2 * torch.pi / frames)
    loops: Tensor = latent_dim**0.5 * (angles.cos() * first + angles.sin() * second)
    return loops.flatten(0, 1).float()


def latent_plane(latent_dim: int, side: int, seed: int, extent: float = 2.0) -> Tensor:
    """Return latents (side * side, latent_dim) over a plane through noise space, row by row.

    Two random orthogonal directions of length sqrt(latent_dim) are walked on great circles within ``extent`` radians
    around one random point, so that every latent is as long as a typical draw. Source: figure 6 of Frosst et al. 2019
    extrapolates over 2 noise dimensions.
    """
    draw_of = torch.Generator().manual_seed(seed_for(seed, "plane"))
    axes, _ = torch.linalg.qr(torch.randn(latent_dim, min(3, latent_dim), generator=draw_of, dtype=torch.float64))
    center, right, down = axes[:, 0], axes[:, 1 % axes.shape[1]], axes[:, -1]
    angles = torch.linspace(-extent / 2, extent / 2, side, dtype=torch.float64)
    x, y = torch.meshgrid(angles, angles, indexing="xy")
    points = x.cos()[..., None] * center + x.sin()[..., None] * right
    points = y.cos()[..., None] * points + y.sin()[..., None] * down
    flat: Tensor = (points * latent_dim**0.5).flatten(0, 1).float()
    return flat
