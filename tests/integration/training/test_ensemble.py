"""Networks of several seeds: each is trained as if it were alone, one after the other or vectorized."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from reference.runs import CPU, classifier_config, new_run, state_of, train_run
from reference.states import differences

from snngan.data import Dataset
from snngan.robustness.attacks import parse_attack
from snngan.seeds import seed_for
from snngan.training.classifier import ClassifierTrainer
from snngan.training.ensemble import Ensemble, VectorizedEnsemble

SMALL = {"cnn": "width=4", "cnn-small": "width=4", "feedforward": "widths=16-8", "resnet15": "width=2"}


def make_ensemble(data: Dataset, **options: Any) -> Ensemble:
    return ClassifierTrainer(classifier_config(data, **options), data, CPU).ensemble


MORE: tuple[dict[str, Any], ...] = (
    {},
    {"alpha": 0.0},
    {"adversarial_training": "pgd:0.1:2"},
    {"regularizer": "triplet:0.5", "distance": "cosine"},
    {"layer_reduction": "min", "alpha": 3.0},
)


@pytest.mark.parametrize(
    ("arch", "more"),
    [*(("feedforward", more) for more in MORE), *((arch, {}) for arch in SMALL), ("resnet15", MORE[2])],
)
def test_a_vectorized_ensemble_equals_its_single_runs(labeled: Dataset, arch: str, more: dict[str, Any]) -> None:
    options = {"arch": arch, "set": (SMALL[arch],), "alpha": -0.3, "temperature": "learned:1", **more}
    together = ClassifierTrainer(
        classifier_config(labeled, seeds="1,5", ensemble="vectorized", **options), labeled, CPU
    )
    assert isinstance(together.ensemble, VectorizedEnsemble)
    for step in (1, 2, 3):
        together.step(step)
    metrics = together.evaluate(3)
    for number, seed in enumerate((1, 5)):
        alone = ClassifierTrainer(classifier_config(labeled, seed=seed, **options), labeled, CPU)
        for step in (1, 2, 3):
            alone.step(step)
        states = [each.ensemble.networks()[at].state_dict() for each, at in ((together, number), (alone, 0))]
        torch.testing.assert_close(*states, rtol=2e-3, atol=2e-4)
        for tag, value in alone.evaluate(3).items():
            if tag.startswith(("accuracy", "cross_entropy")):
                assert metrics[f"seed-{seed}/{tag}"] == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("ensemble", ["sequential", "vectorized"])
def test_each_network_is_attacked_alone(labeled: Dataset, ensemble: str) -> None:
    networks = make_ensemble(labeled, seeds="0:2", ensemble=ensemble, arch="resnet15", set=("width=2",))
    images = (labeled.train_images[:48].float() / 127.5 - 1).view(2, 24, 1, 8, 8)
    assert labeled.train_labels is not None
    labels = labeled.train_labels[:48].view(2, 24)
    before = copy.deepcopy(networks.state_dict())
    found = networks.attack(parse_attack("bim:0.1:3"), images, labels, 1)
    assert differences(before, networks.state_dict()) == []  # running means, too
    assert float((found - images).abs().max()) == pytest.approx(0.2, abs=1e-6)
    started = networks.attack(parse_attack("pgd:0.1:2"), images, labels, 4)
    for number, network in enumerate(networks.networks()):
        own = parse_attack("bim:0.1:3")(network.eval(), images[number], labels[number])
        torch.testing.assert_close(found[number], own, rtol=0, atol=1e-5)
        assert float((own != images[number]).double().mean()) > 0.5
        random = torch.Generator().manual_seed(seed_for(number, "attack at step 4"))
        own = parse_attack("pgd:0.1:2")(network.eval(), images[number], labels[number], generator=random)
        torch.testing.assert_close(started[number], own, rtol=0, atol=1e-5)
    first, again, later = (networks.attack(parse_attack("pgd:0.1:1"), images, labels, step) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


@pytest.mark.parametrize("first", ["sequential", "vectorized"])
def test_a_run_resumes_with_the_other_kind_of_ensemble(labeled: Dataset, first: str) -> None:
    """Each network's optimizer counts its own steps."""
    options: dict[str, Any] = {"seeds": "0:3", "alpha": 0.0}
    start = new_run("start", classifier_config(labeled, ensemble=first, steps=3, **options))
    train_run(start, labeled)
    found = []
    for ensemble in (first, {"sequential": "vectorized", "vectorized": "sequential"}[first]):
        run = new_run(f"then-{ensemble}", classifier_config(labeled, ensemble=ensemble, **options))
        train_run(run, labeled, state_of(start))
        found.append(state_of(run))
    for state in found:
        assert state["optimizers"].keys() == {"0", "1", "2"}
        counters = [parts["step"] for weights in state["optimizers"].values() for parts in weights.values()]
        assert all(float(each) == 6 for each in counters)
        assert len({each.data_ptr() for each in counters}) == len(counters)
    torch.testing.assert_close(found[1]["networks"], found[0]["networks"], rtol=1e-4, atol=1e-5)


def test_networks_of_other_seeds_differ(labeled: Dataset) -> None:
    first, second = make_ensemble(labeled, seeds="0:2").networks()
    assert differences(first.state_dict(), second.state_dict())


def test_vectorized_layers_are_copied_before_anything_writes_over_them(labeled: Dataset) -> None:
    """resnet18 has in-place ReLUs behind its batch norms."""
    images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels, values = torch.arange(24) % 3, []
    for kind in ("sequential", "vectorized"):
        ensemble = make_ensemble(labeled, arch="resnet18", set=(), layers="bn1", seeds="0,1", ensemble=kind)
        values.append(ensemble.entanglement(images, labels)["bn1"])
    assert (values[0] > 0.1).all()
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)


def test_layers_are_found_by_pattern(labeled: Dataset) -> None:
    assert make_ensemble(labeled, layers="fc*,logits").config.layer_names == ("fc1", "fc2")
    assert make_ensemble(labeled, layers="fc2").config.layer_names == ("fc2",)
    assert make_ensemble(labeled).config.layer_names == ("fc1", "fc2")
    with pytest.raises(ValueError, match="no hidden layer was run: logits"):
        make_ensemble(labeled, layers="logits")
    with pytest.raises(ValueError, match="no layer matches 'conv9'; the model has: flat, fc1"):
        make_ensemble(labeled, layers="fc1,conv9")
