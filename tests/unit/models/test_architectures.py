"""The contract of every registered GAN architecture, at each image size that it supports."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from snngan.models import ARCHITECTURES, Architecture, ImageShape

NAMES = ARCHITECTURES.names()
SIZES: list[ImageShape] = [(channels, side, side) for side in (28, 32, 64) for channels in (1, 3)]
ODD_SHAPES: list[ImageShape] = [(1, 8, 8), (1, 1, 2), (1, 30, 30), (3, 32, 28)]
GRAY: ImageShape = (1, 28, 28)


def supports(name: str, shape: ImageShape) -> bool:
    """Return whether the architecture ``name`` builds networks for ``shape``."""
    try:
        ARCHITECTURES[name](width=1).generator(shape)  # type: ignore[call-arg]
    except ValueError:
        return False
    return True


CASES = [(name, shape) for name in NAMES for shape in SIZES + ODD_SHAPES if supports(name, shape)]
REFUSED = [(name, shape) for name in NAMES for shape in ODD_SHAPES if not supports(name, shape)]
ON_SHAPES = pytest.mark.parametrize(("name", "shape"), CASES)
ON_NAMES = pytest.mark.parametrize("name", NAMES)
ON_SPECTRAL = pytest.mark.parametrize("spectral", [False, True], ids=["plain", "spectral"])


def build(name: str, **options: Any) -> Architecture:
    """Return a tiny architecture."""
    return ARCHITECTURES[name](**{"width": 4, "latent_dim": 5, **options})


def norm_choices(name: str, role: str) -> tuple[str, ...]:
    """Return the choices of a norm option of the architecture ``name``."""
    fields: Any = ARCHITECTURES[name]
    return next(tuple(f.metadata["choices"]) for f in dataclasses.fields(fields) if f.name == f"{role}_norm")


ROLES = ("generator", "discriminator")
NORMS = [(name, role, norm) for name in NAMES for role in ROLES for norm in norm_choices(name, role)]
DISCRIMINATOR_NORMS = [(name, norm) for name, role, norm in NORMS if role == "discriminator"]


def images(shape: ImageShape, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Return random images (count, *shape) in [-1, 1]."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents(architecture: Architecture, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Return random latents (count, latent_dim)."""
    return torch.randn(count, architecture.latent_dim, generator=torch.Generator().manual_seed(seed))


def assert_moving(parameters: Iterable[nn.Parameter]) -> None:
    """Fail if a parameter has no gradient, or only zeros."""
    gradients = [parameter.grad for parameter in parameters]
    assert gradients and all(grad is not None and grad.isfinite().all() and grad.any() for grad in gradients)


def test_the_common_image_sizes_are_supported() -> None:
    assert {(name, shape) for name in NAMES for shape in SIZES} <= set(CASES)
    assert {("mlp", shape) for shape in ODD_SHAPES} <= set(CASES)


@ON_SHAPES
def test_shapes_and_ranges(name: str, shape: ImageShape) -> None:
    torch.manual_seed(0)  # with other weights, all units of such a narrow network may be off
    architecture = build(name)
    made = architecture.generator(shape)(latents(architecture) * 100)
    assert (made.shape, made.dtype) == ((3, *shape), torch.float32)
    assert made.abs().max() <= 1 and made.std() > 0
    for output_dim in (1, 10):
        output = architecture.discriminator(shape, output_dim)(images(shape))
        assert output.shape == (3, output_dim)
        assert not torch.equal(output[0], output[1])


@pytest.mark.parametrize(("name", "role", "norm"), NORMS)
def test_every_parameter_gets_a_gradient(name: str, role: str, norm: str) -> None:
    torch.manual_seed(0)
    architecture = build(name, **{f"{role}_norm": norm})
    generator, discriminator = architecture.generator(GRAY), architecture.discriminator(GRAY, 2)
    network = generator if role == "generator" else discriminator
    # With many latents, no ReLU unit is off for all of them by chance.
    output = discriminator(generator(latents(architecture, 64)))
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert_moving(network.parameters())


@ON_SPECTRAL
@pytest.mark.parametrize(("name", "norm"), DISCRIMINATOR_NORMS)
def test_gradients_of_penalties_and_of_two_passes_reach_the_weights(name: str, norm: str, spectral: bool) -> None:
    """The pass of a second batch must not overwrite what the backward pass of the first one needs."""
    torch.manual_seed(0)
    discriminator = build(name, discriminator_norm=norm, spectral_norm=spectral).discriminator(GRAY, 1)
    real = images(GRAY).requires_grad_()
    first = discriminator(real)
    (slope,) = torch.autograd.grad(first.sum(), real, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    for loss in (penalty, (first - discriminator(images(GRAY, seed=1)) * 2).mean()):
        discriminator.zero_grad()
        loss.backward(retain_graph=True)
        assert_moving(parameter for parameter in discriminator.parameters() if parameter.ndim > 1)


@ON_SPECTRAL
@ON_NAMES
def test_copies_and_loaded_networks_compute_the_same(name: str, spectral: bool) -> None:
    architecture = build(name, spectral_norm=spectral, discriminator_norm="batch")
    for make, inputs in (
        (lambda: architecture.generator(GRAY), latents(architecture)),
        (lambda: architecture.discriminator(GRAY, 3), images(GRAY)),
    ):
        network, loaded = make(), make()
        network(inputs)  # changes running statistics and singular vectors
        twin = copy.deepcopy(network)
        loaded.load_state_dict(network.state_dict())
        expected = network.eval()(inputs)
        for other in (twin, loaded):
            assert torch.equal(other.eval()(inputs), expected)
            torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
        twin.train()(inputs).sum().backward()  # the copy is trained on its own
        assert all(parameter.grad is None for parameter in network.parameters())
        assert torch.equal(network.eval()(inputs), expected)


@ON_SHAPES
def test_spectral_norm_holds_on_every_weight_layer(name: str, shape: ImageShape) -> None:
    torch.manual_seed(0)
    discriminator = build(name, spectral_norm=True).discriminator(shape, 10)
    with torch.no_grad():
        for _ in range(50):
            discriminator(images(shape, 1))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert layers
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        # Power iteration approaches the largest singular value from below, slowly if the next one is close to it.
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=0, atol=0.02)


@ON_NAMES
def test_spectral_norm_is_off_by_default_and_never_in_the_generator(name: str) -> None:
    networks = [build(name).discriminator(GRAY, 1), build(name, spectral_norm=True).generator(GRAY)]
    assert not any("parametrizations" in key for network in networks for key in network.state_dict())


@ON_SPECTRAL
@ON_NAMES
def test_the_seed_decides_the_weights(name: str, spectral: bool) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        architecture = build(name, spectral_norm=spectral)
        networks = nn.ModuleList([architecture.generator(GRAY), architecture.discriminator(GRAY, 2)])
        found.append(torch.cat([tensor.flatten() for tensor in networks.state_dict().values()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("role", ["generator", "discriminator"])
@ON_NAMES
def test_each_norm_gives_another_network(name: str, role: str) -> None:
    outputs: list[torch.Tensor] = []
    for norm in norm_choices(name, role):
        architecture = build(name, **{f"{role}_norm": norm})
        torch.manual_seed(0)
        if role == "generator":
            outputs.append(architecture.generator(GRAY)(latents(architecture)))
        else:
            outputs.append(architecture.discriminator(GRAY, 2)(images(GRAY)))
    assert not any(torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize(("name", "norm"), [case for case in DISCRIMINATOR_NORMS if case[1] != "batch"])
def test_an_output_depends_on_its_own_image_alone(name: str, norm: str) -> None:
    """Gradient penalties on single images require it; batch norm is the only exception."""
    discriminator = build(name, discriminator_norm=norm).discriminator(GRAY, 2)
    torch.testing.assert_close(discriminator(images(GRAY, 6))[:2], discriminator(images(GRAY, 6)[:2]))


@ON_SHAPES
def test_evaluated_generator_ignores_the_rest_of_the_batch(name: str, shape: ImageShape) -> None:
    architecture = build(name)
    generator = architecture.generator(shape)
    generator(latents(architecture, 8))
    generator.eval()
    points = latents(architecture, 6, seed=1)
    torch.testing.assert_close(generator(points)[2:3], generator(points[2:3]))


@pytest.mark.parametrize(("name", "shape"), REFUSED)
def test_unsupported_shape_is_refused_in_one_line(name: str, shape: ImageShape) -> None:
    architecture = build(name)
    pattern = rf"^images of {name} must be .*28.*got {shape[1]}x{shape[2]}.* mlp.*\Z"  # "." matches no line break
    with pytest.raises(ValueError, match=pattern):
        architecture.generator(shape)
    with pytest.raises(ValueError, match=pattern):
        architecture.discriminator(shape, 1)


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"latent_dim": 0}, {"generator_norm": "bach"}], ids=["width", "latent_dim", "norm"]
)
@ON_NAMES
def test_bad_option_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        build(name, **options)


def test_mlp_has_as_many_hidden_layers_as_asked() -> None:
    for hidden_layers in (1, 4):
        architecture = build("mlp", hidden_layers=hidden_layers)
        for network in (architecture.generator(GRAY), architecture.discriminator(GRAY, 1)):
            assert sum(isinstance(module, nn.Linear) for module in network.modules()) == hidden_layers + 1
