"""Attacks by name: the same as the functions at twice the strength, and what is no attack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from snngan.robustness.attack_rule import ATTACKS, Attack, parse_attack
from snngan.robustness.attacks import bim, fgsm, pgd


@pytest.fixture
def given() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(8, 1, 4, 4) * 2 - 1, torch.arange(8) % 3


def test_strengths_are_of_pixels_from_0_to_1(given: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(Attack("fgsm", 0.1)(*given), fgsm(*given, 0.2))
    assert torch.equal(Attack("bim", 0.1)(*given), bim(*given, 0.2, steps=10))
    assert torch.equal(Attack("bim", 0.1, 4, 0.05)(*given), bim(*given, 0.2, steps=4, step_size=0.1))

    def starts() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    assert torch.equal(Attack("pgd", 0.1, 4)(*given, generator=starts()), pgd(*given, 0.2, steps=4, generator=starts()))
    assert not torch.equal(Attack("pgd", 0.1, 4)(*given, generator=starts()), bim(*given, 0.2, steps=4))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_targeted_attack_lowers_the_loss_of_its_target(
    name: str, given: tuple[nn.Module, torch.Tensor, torch.Tensor]
) -> None:
    model, images, _ = given
    target = torch.zeros(8, dtype=torch.int64)

    def loss(shown: torch.Tensor) -> float:
        return float(nn.functional.cross_entropy(model(shown), target).detach())

    assert loss(Attack(name, 0.1)(model, images, target, targeted=True)) < loss(images)
    assert loss(Attack(name, 0.1)(model, images, target)) > loss(images)


def test_of_several_generators_each_starts_its_share(given: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, images, labels = given
    attack = Attack("pgd", 0.1, 2)
    halves = [
        attack(model, images[part], labels[part], generator=torch.Generator().manual_seed(seed))
        for seed, part in enumerate((slice(0, 4), slice(4, 8)))
    ]
    both = attack(model, images, labels, generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)])
    torch.testing.assert_close(both, torch.cat(halves))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ATTACKS)
def test_on_a_gpu_it_starts_where_it_does_on_a_cpu(
    name: str, given: tuple[nn.Module, torch.Tensor, torch.Tensor]
) -> None:
    model, images, labels = given
    here = Attack(name, 0.1)(model, images, labels, generator=torch.Generator().manual_seed(1))
    there = Attack(name, 0.1)(model.cuda(), images.cuda(), labels.cuda(), generator=torch.Generator().manual_seed(1))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)


def test_a_step_has_a_size() -> None:
    for size in (0.0, -0.1, 2.0, float("nan")):
        with pytest.raises(ValueError, match="step_size must be above 0 and at most 1"):
            Attack("bim", 0.1, 4, size)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pdg:0.3", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("pgd", "an attack is NAME:EPSILON or NAME:EPSILON:STEPS such as pgd:0.3:40, not 'pgd'"),
        ("pgd:much", "not 'pgd:much'"),
        ("pgd:0.3:40:2", "not 'pgd:0.3:40:2'"),
        ("pgd:0.3:many", "not 'pgd:0.3:many'"),
        ("pgd:0", "epsilon must be above 0 and at most 1, the range of pixels, not 0"),
        ("pgd:8", "at most 1, the range of pixels, not 8"),
        ("pgd:nan", "not nan"),
        ("fgsm:0.3:7", "fgsm takes one step, of epsilon; several steps are bim's or pgd's"),
        ("pgd:0.3:0", "an attack takes 1 to 10000 steps, not 0"),
    ],
)
def test_what_is_no_attack(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_attack(text)
