"""Attacks: as an independent implementation makes them, and never outside the ball or the range of pixels."""

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
from reference.batches import INTEGERS
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.robustness.attacks import bim, fgsm, pgd

SHAPE = (1, 8, 8)


def random_classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
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


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def of_art(model: nn.Module) -> Any:
    """Return the model as the Adversarial Robustness Toolbox takes it."""
    classification = pytest.importorskip("art.estimators.classification")
    return classification.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, nb_classes=10, clip_values=(-1.0, 1.0), device_type="cpu"
    )


def on_a_grid(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return 20 images whose pixels are multiples of 1/64, so that small steps in such units are free of rounding."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-64, 65, (20, *SHAPE), generator=generator) / 64
    return images, torch.randint(0, 10, (20,), generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_and_bim_are_those_of_art_to_the_bit(targeted: bool) -> None:
    model, (images, labels) = random_classifier(), on_a_grid()
    theirs = of_art(model)
    evasion = pytest.importorskip("art.attacks.evasion")
    made = evasion.FastGradientMethod(theirs, eps=1 / 8, targeted=targeted).generate(images.numpy(), labels.numpy())
    assert np.array_equal(fgsm(model, images, labels, 1 / 8, targeted=targeted).numpy(), made)
    attack = evasion.BasicIterativeMethod(
        theirs, eps=1 / 8, eps_step=1 / 32, max_iter=7, targeted=targeted, verbose=False
    )
    made = attack.generate(images.numpy(), labels.numpy())
    ours = bim(model, images, labels, 1 / 8, step_size=1 / 32, steps=7, targeted=targeted)
    assert np.array_equal(ours.numpy(), made)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ART's, under NumPy 2
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 1.0)])
def test_pgd_succeeds_as_often_as_that_of_art(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Any, epsilon: float
) -> None:
    """Both start at random; the shares of 100 images may differ by a few."""
    model, images, labels = digits
    evasion = pytest.importorskip("art.attacks.evasion")
    attack = evasion.ProjectedGradientDescentPyTorch(
        of_art(model), norm=np.inf if norm == "linf" else 2, eps=epsilon, eps_step=epsilon / 8, max_iter=20,
        num_random_init=3, verbose=False,
    )  # fmt: skip
    theirs = accuracy(model, torch.from_numpy(attack.generate(images.numpy(), labels.numpy())), labels)
    ours = accuracy(
        model, pgd(model, images, labels, epsilon, step_size=epsilon / 8, steps=20, restarts=3, norm=norm), labels
    )
    assert 0.02 < theirs < 0.9
    assert ours == pytest.approx(theirs, abs=0.04)


@given(
    seed=st.integers(0, 2**16), epsilon=st.floats(0, 3), steps=st.integers(1, 4), share=st.floats(0.01, 3),
    norm=st.sampled_from(["linf", "l2"]), targeted=st.booleans(), name=st.sampled_from(["fgsm", "bim", "pgd"]),
)  # fmt: skip
def test_no_attack_leaves_the_ball_or_the_range_of_pixels(
    seed: int, epsilon: float, steps: int, share: float, norm: Any, targeted: bool, name: str
) -> None:
    """To float32's rounding: of one sum where signs move pixels, of 64 squares for a length."""
    model, (images, labels) = random_classifier(seed), on_a_grid(seed)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"targeted": targeted}
    if name != "fgsm":
        options |= {"steps": steps, "step_size": share * epsilon}
    if name == "pgd":
        options |= {"norm": norm, "restarts": 2, "generator": generator}
    found = {"fgsm": fgsm, "bim": bim, "pgd": pgd}[name](model, images, labels, epsilon, **options)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert float(found.abs().max()) <= 1
    moved = found - images
    if name == "pgd" and norm == "l2":
        assert float(torch.linalg.vector_norm(moved.flatten(1), dim=1).max()) <= epsilon * (1 + 1e-5) + 1e-6
    else:
        assert float(moved.abs().max()) <= epsilon + 2e-7 * (1 + epsilon)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_in_the_ball(norm: Any) -> None:
    """A model without a slope leaves every image where it starts."""
    images = torch.zeros(4000, 3, dtype=torch.float64)
    starts = pgd(lambda shown: shown[:, :2] * 0, images, torch.zeros(4000, dtype=torch.int64), 0.5, norm=norm, steps=1,
                 generator=torch.Generator().manual_seed(0))  # fmt: skip
    lengths = starts.norm(dim=1) / 0.5 if norm == "l2" else starts.abs().amax(1) / 0.5
    assert kstest(lengths**3, "uniform").pvalue > 0.01  # of three dimensions the volume within
    for signs in itertools.product((-1, 1), repeat=3):
        share = float((starts.sign() == torch.tensor(signs)).all(1).double().mean())
        assert share == pytest.approx(1 / 8, abs=0.025)


def test_of_a_broken_model_the_first_start_is_kept() -> None:
    images, labels = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)
    found = pgd(lambda shown: shown[:, :2] * torch.nan, images, labels, 0.5, restarts=2)
    assert bool(found.isnan().any()) or not torch.equal(found, images)


def test_an_untargeted_attack_raises_the_loss_and_a_targeted_one_lowers_it(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    wanted = (labels + 1) % 10
    for attack in (fgsm, bim, pgd):
        assert accuracy(model, attack(model, images, labels, 0.3), labels) < accuracy(model, images, labels) - 0.2
        taken = accuracy(model, attack(model, images, wanted, 0.3, targeted=True), wanted)
        assert taken > accuracy(model, images, wanted) + 0.1


def test_more_steps_and_more_restarts_are_stronger(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits

    def loss(found: Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(found), labels))

    assert loss(bim(model, images, labels, 0.2, steps=20)) > loss(fgsm(model, images, labels, 0.2))
    few, many = (
        pgd(model, images, labels, 0.2, steps=3, restarts=count, generator=torch.Generator().manual_seed(0))
        for count in (1, 5)
    )
    assert loss(many) > loss(few)  # the first start is the same


def test_epsilon_0_and_no_images_change_nothing() -> None:
    model, (images, labels) = random_classifier(), on_a_grid()
    for attack in (fgsm, bim, pgd):
        assert torch.equal(attack(model, images, labels, 0.0), images)
        assert attack(model, images[:0], labels[:0], 0.1).shape == (0, *SHAPE)


def test_the_model_keeps_its_gradients_and_its_mode() -> None:
    model, (images, labels) = random_classifier().train(), on_a_grid()
    with torch.no_grad():
        pgd(model, images, labels, 0.1, steps=2)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert not images.requires_grad


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be 0 or above, and finite, not -0.1"),
        ({"epsilon": math.inf}, "epsilon must be 0 or above, and finite, not inf"),
        ({"step_size": math.nan}, "step_size must be 0 or above, and finite, not nan"),
        ({"steps": 0}, "steps must be 1 or above, not 0"),
        ({"restarts": 0}, "restarts must be 1 or above, not 0"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', not 'l1'"),
        ({"images": torch.zeros(3, *SHAPE, dtype=torch.uint8)}, "images must be of a floating-point type"),
        ({"images": torch.full((3, *SHAPE), 1.5)}, r"images lie in \[1.5, 1.5\], beyond the bounds \[-1, 1\]"),
        (
            {"labels": torch.zeros(2, dtype=torch.int64)},
            r"labels must be integers \(3,\), one per sample, got int64 \(2,\)",
        ),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    given_to: dict[str, Any] = {"images": torch.zeros(3, *SHAPE), "labels": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        pgd(random_classifier(), **given_to | {"epsilon": 0.1} | changed)


ATTACKS = [fgsm, bim, pgd, partial(pgd, norm="l2"), partial(pgd, restarts=2), partial(pgd, targeted=True)]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_images_carry_no_graph_and_leave_none(attack: Any, epsilon: float) -> None:
    model, images = random_classifier(), torch.rand(6, *SHAPE).requires_grad_()
    found = attack(model, images, torch.arange(6), epsilon)
    assert not found.requires_grad
    assert images.grad is None
    assert all(weight.grad is None for weight in model.parameters())
    hidden = (images * 0.5).tanh()  # part of another graph
    assert not attack(model, hidden, torch.arange(6), epsilon).requires_grad
    assert hidden.requires_grad


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("attack", [fgsm, bim])
def test_labels_may_be_integers_of_any_type(attack: Any, dtype: torch.dtype) -> None:
    model, images, labels = random_classifier(), torch.rand(6, *SHAPE), torch.arange(6) % 2
    assert torch.equal(attack(model, images, labels.to(dtype), 0.1), attack(model, images, labels, 0.1))
