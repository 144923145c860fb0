"""Networks that take labels: every architecture, and the layers that they are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from snngan.models import ARCHITECTURES, ImageShape
from snngan.models.conditional import ConditionalBatchNorm2d, ProjectionDiscriminator
from snngan.models.layers import Smooth

CLASSES = 3
GRAY: ImageShape = (1, 28, 28)
LABELS = torch.tensor([0, 1, 2, 2])
ON_NAMES = pytest.mark.parametrize("name", ARCHITECTURES.names())


def build(name: str, **options: Any) -> Any:
    return ARCHITECTURES[name](**{"width": 4, "latent_dim": 5, **options})


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@ON_NAMES
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("shape", [GRAY, (3, 32, 32)])
def test_a_generator_makes_other_images_of_another_class(name: str, norm: str, shape: ImageShape) -> None:
    torch.manual_seed(0)
    generator = build(name, generator_norm=norm).generator(shape, CLASSES)
    optimizer, labels = torch.optim.Adam(generator.parameters(), 0.02), torch.tensor([0, 0, 2, 2])
    for _ in range(20):  # class 0 shall be bright, class 2 dark
        images = generator(noise(4, 5), labels)
        assert images.shape == (4, *shape) and images.abs().max() <= 1
        optimizer.zero_grad()
        (images * (labels - 1).view(-1, 1, 1, 1)).mean().backward()
        assert all(weight.grad is not None for weight in generator.parameters())
        optimizer.step()
    bright, dark, same = generator.eval()(noise(1, 5).expand(3, -1), torch.tensor([0, 2, 2]))
    assert (bright - dark).abs().max() > 1e-3
    assert_close(dark, same)


@ON_NAMES
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("dim", [1, 10])
def test_a_discriminator_projects_on_the_class(name: str, spectral: bool, dim: int) -> None:
    discriminator = build(name, spectral_norm=spectral).discriminator(GRAY, dim, CLASSES)
    images = noise(4, *GRAY)
    discriminator(images, LABELS)  # a step of the power iteration
    discriminator.eval()
    outputs = discriminator(images, LABELS)
    assert outputs.shape == (4, dim)
    features, head = discriminator.features(images), discriminator.linear
    for row, label in enumerate(LABELS.tolist()):
        by_class = discriminator.by_class.weight[label].view(dim, -1)
        assert_close(outputs[row], (head.weight + by_class) @ features[row] + head.bias, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(discriminator(images, LABELS.flip(0)), outputs)


def test_the_weight_of_the_classes_is_divided_by_its_norm() -> None:
    discriminator = build("mlp", spectral_norm=True).discriminator(GRAY, 2, CLASSES)
    for _ in range(30):
        discriminator(noise(4, *GRAY), LABELS)
    norm = torch.linalg.matrix_norm(discriminator.by_class.weight, 2)
    assert_close(norm, torch.ones(()), rtol=1e-3, atol=0)


def test_conditional_batch_normalization_equals_its_formula() -> None:
    layer, maps = ConditionalBatchNorm2d(2, CLASSES), noise(4, 2, 3, 3)
    plain = F.batch_norm(maps, None, None, training=True)
    assert_close(layer(maps, LABELS), plain)  # at first all classes are alike
    nn.init.normal_(layer.scale.weight)
    nn.init.normal_(layer.shift.weight)
    expected = torch.stack(
        [
            plain[row] * layer.scale.weight[label].view(2, 1, 1) + layer.shift.weight[label].view(2, 1, 1)
            for row, label in enumerate(LABELS.tolist())
        ]
    )
    assert_close(layer(maps, LABELS), expected)


def test_one_output_is_that_of_miyato_and_koyama() -> None:
    layer = ProjectionDiscriminator(nn.Flatten(), 6, 1, CLASSES)
    features = noise(4, 6)
    inner = (layer.by_class.weight[LABELS] * features).sum(1, keepdim=True)
    assert_close(layer(features, LABELS), layer.linear(features) + inner)


def test_bilinear_upsampling_has_no_transposed_convolution() -> None:
    generator = build("dcgan", upsampling="bilinear").generator((3, 32, 32))
    kinds = [type(each) for each in generator.modules()]
    assert nn.ConvTranspose2d not in kinds and kinds.count(nn.Upsample) == 3
    assert generator(noise(2, 5)).shape == (2, 3, 32, 32)


def test_smoothed_images_are_those_of_a_convolution() -> None:
    images, weights = noise(2, 3, 5, 4), torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    assert_close(Smooth()(images), F.conv2d(padded, torch.outer(weights, weights)[None, None]).view_as(images))
    plain, smooth = (build("mlp", smoothing=each).generator(GRAY) for each in (False, True))
    smooth.load_state_dict(plain.state_dict())
    assert_close(smooth[:-1](noise(2, 5)), Smooth()(plain[:-1](noise(2, 5))))
    points = build("mlp", smoothing=True).generator((1, 1, 2))
    assert not any(isinstance(each, Smooth) for each in points)  # coordinates are not pixels
