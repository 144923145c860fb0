"""Attacks against an independent implementation, their bounds, their random starts, and attacks written as text."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.robustness.attacks import ATTACKS, Attack, bim, fgsm, parse_attack, pgd

SHAPE = (1, 8, 8)
Digits = tuple[nn.Module, Tensor, Tensor]


def random_classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Return a classifier of 8x8 digits and 100 test images with their labels."""
    dataset = load_dataset("digits")
    assert dataset.train_labels is not None
    assert dataset.test_labels is not None
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    images = to_unit_range(dataset.train_images)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), dataset.train_labels).backward()
        optimizer.step()
    images, labels = to_unit_range(dataset.test_images[:100]), dataset.test_labels[:100]
    assert accuracy(model, images, labels) > 0.9
    return model.eval(), images, labels


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).double().mean())


@torch.no_grad()
def mean_loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(model(images), labels))


def art_classifier(model: nn.Module) -> Any:
    """Return the model wrapped for the Adversarial Robustness Toolbox."""
    classification = pytest.importorskip("art.estimators.classification")
    return classification.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, nb_classes=10, clip_values=(-1.0, 1.0), device_type="cpu"
    )


def images_on_a_grid(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return 20 images whose pixels are multiples of 1/64, so that steps of such sizes are free of rounding."""
    generator = seeded(seed)
    images = torch.randint(-64, 65, (20, *SHAPE), generator=generator) / 64
    return images, torch.randint(0, 10, (20,), generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_and_bim_equal_those_of_art_to_the_bit(targeted: bool) -> None:
    model, (images, labels) = random_classifier(), images_on_a_grid()
    evasion, theirs = pytest.importorskip("art.attacks.evasion"), art_classifier(model)
    options = {"eps_step": 1 / 32, "max_iter": 7, "targeted": targeted, "verbose": False}
    for ours, attack in (
        (fgsm(model, images, labels, 1 / 8, targeted=targeted),
         evasion.FastGradientMethod(theirs, eps=1 / 8, targeted=targeted)),
        (bim(model, images, labels, 1 / 8, step_size=1 / 32, steps=7, targeted=targeted),
         evasion.BasicIterativeMethod(theirs, eps=1 / 8, **options)),
    ):  # fmt: skip
        assert np.array_equal(ours.numpy(), attack.generate(images.numpy(), labels.numpy()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ART's, under NumPy 2
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 1.0)])
def test_pgd_succeeds_as_often_as_that_of_art(digits: Digits, norm: Any, epsilon: float) -> None:
    """Both start at random: the shares of 100 images may differ by a few."""
    model, images, labels = digits
    evasion = pytest.importorskip("art.attacks.evasion")
    options = {"eps": epsilon, "eps_step": epsilon / 8, "max_iter": 20, "num_random_init": 3, "verbose": False}
    order = np.inf if norm == "linf" else 2
    attack = evasion.ProjectedGradientDescentPyTorch(art_classifier(model), norm=order, **options)
    theirs = accuracy(model, torch.from_numpy(attack.generate(images.numpy(), labels.numpy())), labels)
    found = pgd(model, images, labels, epsilon, step_size=epsilon / 8, steps=20, restarts=3, norm=norm)
    assert 0.02 < theirs < 0.9
    assert accuracy(model, found, labels) == pytest.approx(theirs, abs=0.04)


@given(
    seed=st.integers(0, 2**16), epsilon=st.floats(0, 3), steps=st.integers(1, 4), share=st.floats(0.01, 3),
    order=st.sampled_from([math.inf, 2]), targeted=st.booleans(),
)  # fmt: skip
def test_no_attack_leaves_the_ball_or_the_range_of_pixels(
    seed: int, epsilon: float, steps: int, share: float, order: float, targeted: bool
) -> None:
    """Up to float32's rounding: of one sum for linf, of 64 squares for l2."""
    batch = random_classifier(seed), *images_on_a_grid(seed)
    options: dict[str, Any] = {"norm": "l2" if order == 2 else "linf", "restarts": 2, "targeted": targeted}
    found = pgd(*batch, epsilon, steps=steps, step_size=share * epsilon, generator=seeded(seed), **options)
    assert float(found.abs().max()) <= 1
    moved = torch.linalg.vector_norm((found - batch[1]).flatten(1), order, dim=1)
    assert float(moved.max()) <= epsilon * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_in_the_ball(norm: Any) -> None:
    """A model with zero gradient leaves every image where it starts."""
    images, labels = torch.zeros(4000, 3, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    starts = pgd(lambda x: x[:, :2] * 0, images, labels, 0.5, norm=norm, steps=1, generator=seeded(0))
    radii = starts.norm(dim=1) / 0.5 if norm == "l2" else starts.abs().amax(1) / 0.5
    assert kstest(radii**3, "uniform").pvalue > 0.01  # volume within the radius, in three dimensions
    for signs in itertools.product((-1, 1), repeat=3):
        share = float((starts.sign() == torch.tensor(signs)).all(1).double().mean())
        assert share == pytest.approx(1 / 8, abs=0.025)


def test_an_untargeted_attack_raises_the_loss_and_a_targeted_one_lowers_it(digits: Digits) -> None:
    model, images, labels = digits
    targets = (labels + 1) % 10
    for name in ATTACKS.names():
        attack = ATTACKS[name]
        assert accuracy(model, attack(model, images, labels, 0.3), labels) < accuracy(model, images, labels) - 0.2
        targeted = Attack(name, 0.15)(model, images, targets, targeted=True)
        assert accuracy(model, targeted, targets) > accuracy(model, images, targets) + 0.1


def test_more_steps_and_more_restarts_are_stronger(digits: Digits) -> None:
    model, images, labels = digits
    one_step, many_steps = fgsm(model, images, labels, 0.2), bim(model, images, labels, 0.2, steps=20)
    assert mean_loss(model, many_steps, labels) > mean_loss(model, one_step, labels)
    one, five = (  # the first start is the same
        pgd(model, images, labels, 0.2, steps=3, restarts=count, generator=seeded(0)) for count in (1, 5)
    )
    assert mean_loss(model, five, labels) > mean_loss(model, one, labels)


def test_epsilon_0_and_no_images_change_nothing() -> None:
    model, (images, labels) = random_classifier(), images_on_a_grid()
    for attack in (fgsm, bim, pgd, partial(pgd, norm="l2")):
        assert torch.equal(attack(model, images, labels, 0.0), images)
        assert attack(model, images[:0], labels[:0], 0.1).shape == (0, *SHAPE)


@pytest.mark.parametrize("attack", [fgsm, bim, pgd, partial(pgd, norm="l2"), partial(pgd, restarts=2)])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_model_and_images_keep_their_gradients_and_mode(attack: Any, epsilon: float) -> None:
    model, leaf = random_classifier().train(), torch.rand(6, *SHAPE).requires_grad_()
    for images in (leaf, (leaf * 0.5).tanh()):  # a leaf, and a part of another graph
        assert not attack(model, images, torch.arange(6), epsilon).requires_grad
        assert images.requires_grad
    with torch.no_grad():
        attack(model, leaf, torch.arange(6), epsilon)
    assert leaf.grad is None
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be finite and 0 or above, got -0.1"),
        ({"epsilon": math.inf}, "epsilon must be finite and 0 or above, got inf"),
        ({"step_size": math.nan}, "step_size must be finite and 0 or above, got nan"),
        ({"steps": 0}, "steps must be 1 or above, got 0"),
        ({"restarts": 0}, "restarts must be 1 or above, got 0"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"images": torch.zeros(3, *SHAPE, dtype=torch.uint8)}, "images must be floating point, got torch.uint8"),
        ({"images": torch.full((3, *SHAPE), 1.5)}, r"within bounds \(-1.0, 1.0\), got values from 1.5 to 1.5"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"labels must be integers \(3,\).* got int64 \(2,\)"),
    ],
)
def test_arguments_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"images": torch.zeros(3, *SHAPE), "labels": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        pgd(random_classifier(), **arguments | {"epsilon": 0.1} | changed)


def test_strengths_of_attacks_by_name_are_for_pixels_from_0_to_1() -> None:
    batch = random_classifier(), *images_on_a_grid()
    assert torch.equal(Attack("fgsm", 0.1)(*batch), fgsm(*batch, 0.2))
    assert torch.equal(Attack("bim", 0.1)(*batch), bim(*batch, 0.2, steps=10))
    assert torch.equal(Attack("bim", 0.1, 4, 0.05)(*batch), bim(*batch, 0.2, steps=4, step_size=0.1))
    found = Attack("pgd", 0.1, 4)(*batch, generator=seeded(3))
    assert torch.equal(found, pgd(*batch, 0.2, steps=4, generator=seeded(3)))
    assert not torch.equal(found, bim(*batch, 0.2, steps=4))


def test_several_generators_each_serve_an_equal_share_of_the_images() -> None:
    model, (images, labels) = random_classifier(), images_on_a_grid()
    attack = Attack("pgd", 0.1, 2)
    halves = [
        attack(model, images[part], labels[part], generator=seeded(seed))
        for seed, part in enumerate((slice(0, 10), slice(10, 20)))
    ]
    torch.testing.assert_close(attack(model, images, labels, generator=[seeded(0), seeded(1)]), torch.cat(halves))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ATTACKS.names())
def test_attacks_on_a_gpu_equal_those_on_a_cpu(name: str) -> None:
    model, (images, labels) = random_classifier(), images_on_a_grid()
    here = Attack(name, 0.1)(model, images, labels, generator=seeded(1))
    there = Attack(name, 0.1)(model.cuda(), images.cuda(), labels.cuda(), generator=seeded(1))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 2.0, math.nan])
def test_a_step_size_out_of_range_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match="step_size must be above 0 and at most 1, the range of pixels, got"):
        Attack("bim", 0.1, 4, size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg:0.3", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("pgd", "an attack must be NAME:EPSILON or NAME:EPSILON:STEPS, such as pgd:0.3:40, got 'pgd'"),
        ("pgd:much", "got 'pgd:much'"),
        ("pgd:0.3:40:2", "got 'pgd:0.3:40:2'"),
        ("pgd:0.3:many", "got 'pgd:0.3:many'"),
        ("pgd:0", "epsilon must be above 0 and at most 1, the range of pixels, got 0"),
        ("pgd:nan", "at most 1, the range of pixels, got nan"),
        ("fgsm:0.3:7", "fgsm has no option steps: leave it out, or choose another attack"),
        ("pgd:0.3:0", "steps must be 1 or above, got 0"),
    ],
)
def test_texts_that_are_not_attacks_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_attack(text)
