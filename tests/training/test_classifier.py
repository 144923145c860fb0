"""The classifiers' loop: seeds side by side, resumed runs, what is read, and what cannot go on."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.rows import bright_rows
from reference.states import differences
from reference.stopping import stop_after
from torch.nn import functional as F

from snngan.config import ClassifyConfig
from snngan.data import Dataset
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.losses.triplet import triplet_loss
from snngan.models import CLASSIFIERS
from snngan.robustness.attacks import parse_attack
from snngan.training import classifier
from snngan.training.checkpoint import CheckpointError, load_newest
from snngan.training.classifier import along, calibration_error, falling, train_classifier
from snngan.training.classifier_plan import classify_plan_from_json, make_classify_plan, parse_seeds
from snngan.training.divergence import DivergedError, LossMonitor
from snngan.training.ensemble import SequentialEnsemble, VectorizedEnsemble, build_ensemble, build_network, starts_of
from snngan.training.run_folder import ClassifierRun, GanRun, open_run

CPU = torch.device("cpu")
SMALL = {"cnn": "width=4", "cnn-small": "width=4", "feedforward": "widths=16-8", "resnet15": "width=2"}
"""An option that keeps a network tiny; torchvision's have none."""
Make = Callable[..., ClassifierRun]


@pytest.fixture
def labeled() -> Dataset:
    return bright_rows(96, 48, noise=128, bright=100)


@pytest.fixture
def make(tmp_path: Path, labeled: Dataset) -> Make:
    def new(name: str, **options: Any) -> ClassifierRun:
        tiny: dict[str, Any] = {
            "dataset": labeled.name, "arch": "feedforward", "set": ("widths=16-8",), "alpha": -0.1, "steps": 6,
            "batch_size": 24, "checkpoint_every": 2, "log_every": 1,
        }  # fmt: skip
        plan = make_classify_plan(ClassifyConfig(**tiny | options), labeled)
        return ClassifierRun.create(tmp_path / name, plan, CPU)

    return new


def state_of(run: ClassifierRun) -> dict[str, Any]:
    return load_newest(run.checkpoints, pytest.fail, holds="members")


def metrics(run: ClassifierRun) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


RUNS = {
    "one": {"seed": 3, "temperature": "learned:1"},
    "sequential": {"seeds": "0:3", "ensemble": "sequential", "temperature": "annealed:1"},
    "vectorized": {"seeds": "0:3", "ensemble": "vectorized", "temperature": "learned:1"},
    "batch-norm": {"seeds": "0,4", "ensemble": "vectorized", "arch": "resnet15", "set": ("width=2",)},
    "attacked": {
        "seeds": "0:2",
        "ensemble": "sequential",
        "adversarial_training": "pgd:0.1:2",
        "regularizer": "triplet:0.5",
    },
    "attacked-vectorized": {"seeds": "0:2", "ensemble": "vectorized", "adversarial_training": "pgd:0.1:2"},
    "falling": {"learning_rate": 0.1, "learning_rate_final": 0.001, "optimizer": "sgd", "alpha_final": 1.0},
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_stopped_and_resumed_is_the_unbroken_one(make: Make, labeled: Dataset, kind: str) -> None:
    """Stopped at step 3, then killed after step 5 with its last checkpoint at 4; an epoch is 4 batches."""
    unbroken = make("unbroken", **RUNS[kind])
    assert train_classifier(unbroken, labeled, CPU).finished
    broken = make("broken", **RUNS[kind])
    outcome = train_classifier(broken, labeled, CPU, should_stop=stop_after(3))
    assert (outcome.step, outcome.finished) == (3, False)
    torch.manual_seed(99)
    again = ClassifierRun.open(broken.path)
    train_classifier(again, labeled, CPU, start=state_of(broken), should_stop=stop_after(2))
    (broken.checkpoints / "step-00000005.pt").unlink()
    outcome = train_classifier(ClassifierRun.open(broken.path), labeled, CPU, start=state_of(broken))
    assert (outcome.step, outcome.finished) == (6, True)
    assert differences(state_of(unbroken), state_of(broken)) == []
    assert metrics(broken) == metrics(unbroken)
    assert [line["step"] for line in metrics(broken)] == list(range(7))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"alpha": 0.0},
        {"adversarial_training": "pgd:0.1:2"},
        {"regularizer": "triplet:0.5", "distance": "cosine"},
        {"layer_reduction": "min", "alpha": 3.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("arch", SMALL)
def test_an_ensemble_is_its_single_runs(make: Make, labeled: Dataset, arch: str, more: dict[str, Any]) -> None:
    options = {"arch": arch, "set": (SMALL[arch],), "alpha": -0.3, "steps": 3, "temperature": "learned:1", **more}
    ensemble = make("ensemble", seeds="1,5", ensemble="vectorized", **options)
    train_classifier(ensemble, labeled, CPU)
    for number, seed in enumerate((1, 5)):
        single = make(f"single-{seed}", seed=seed, **options)
        train_classifier(single, labeled, CPU)
        together = state_of(ensemble)["members"]["networks"][number]
        for name, weight in state_of(single)["members"]["networks"][0].items():
            torch.testing.assert_close(
                together[name], weight, rtol=2e-3, atol=2e-4, msg=lambda text, at=name: f"{at}: {text}"
            )
        for tag, value in metrics(single)[-1].items():
            if tag.startswith(("accuracy", "cross_entropy")):
                assert metrics(ensemble)[-1][f"seed-{seed}/{tag}"] == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("ensemble", ["sequential", "vectorized"])
def test_each_network_is_trained_on_examples_made_on_itself(make: Make, labeled: Dataset, ensemble: str) -> None:
    run = make("run", seeds="0:2", ensemble=ensemble, arch="resnet15", set=("width=2",))
    members = build_ensemble(run.plan, CPU)
    images = (labeled.train_images[:48].float() / 127.5 - 1).view(2, 24, 1, 8, 8)
    assert labeled.train_labels is not None
    labels = labeled.train_labels[:48].view(2, 24)
    before = copy.deepcopy(members.state_dict())
    found = members.attacked(parse_attack("bim:0.1:3"), images, labels, 1)
    assert differences(before, members.state_dict()) == []  # weights, gradients' owners and running means
    assert float((found - images).abs().max()) == pytest.approx(0.2, abs=1e-6)
    for number, network in enumerate(members.networks()):
        own = parse_attack("bim:0.1:3")(network.eval(), images[number], labels[number])
        torch.testing.assert_close(found[number], own, rtol=0, atol=1e-5)
        assert float((own != images[number]).double().mean()) > 0.5
    moved = members.attacked(parse_attack("pgd:0.1:2"), images, labels, 4)
    for number, network in enumerate(members.networks()):
        own = parse_attack("pgd:0.1:2")(network.eval(), images[number], labels[number], generator=starts_of(number, 4))
        torch.testing.assert_close(moved[number], own, rtol=0, atol=1e-5)
    first, again, later = (members.attacked(parse_attack("pgd:0.1:1"), images, labels, step) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_examples_make_it_robust(make: Make, labeled: Dataset) -> None:
    attack = parse_attack("pgd:0.2:10")
    images, labels = labeled.test_images.float() / 127.5 - 1, labeled.test_labels
    assert labels is not None
    accuracies = []
    for adversarial_training in (None, "pgd:0.2:3"):
        run = make(
            f"run-{adversarial_training}",
            steps=150,
            alpha=0.0,
            adversarial_training=adversarial_training,
            learning_rate=0.01,
            log_every=150,
        )
        train_classifier(run, labeled, CPU)
        members = build_ensemble(run.plan, CPU)
        members.load_state_dict(state_of(run)["members"])
        (network,) = members.networks()
        moved = attack(network.eval(), images, labels, generator=torch.Generator().manual_seed(0))
        accuracies.append(float((network(moved).argmax(1) == labels).double().mean()))
    assert accuracies[1] > accuracies[0] + 0.2


def test_the_triplet_loss_takes_the_place_of_entanglement(make: Make, labeled: Dataset) -> None:
    run = make("run", regularizer="triplet:0.5", distance="cosine", alpha=-0.3)
    members = build_ensemble(run.plan, CPU)
    images, labels = labeled.train_images[:24].float() / 127.5 - 1, labeled.train_labels
    assert labels is not None
    loss, cross_entropy = members.backward(images[None], labels[None, :24], -0.3)
    (network,) = members.networks()
    hidden = network[1](network[0](images))
    by_hand = sum(triplet_loss(layer, labels[:24], 0.5, "cosine") for layer in (hidden, network[2](hidden)))
    torch.testing.assert_close(loss - cross_entropy, -0.3 * by_hand[None])


@pytest.mark.parametrize("ensemble", ["sequential", "vectorized"])
def test_the_lowest_layer_s_entanglement_alone_may_count(make: Make, labeled: Dataset, ensemble: str) -> None:
    run = make("run", seeds="0:2", ensemble=ensemble, temperature="absolute:1", layer_reduction="min")
    members = build_ensemble(run.plan, CPU)
    assert labeled.train_labels is not None
    images = (labeled.train_images[:48].float() / 127.5 - 1).view(2, 24, 1, 8, 8)
    labels = labeled.train_labels[:48].view(2, 24)
    losses, cross_entropies = members.backward(images, labels, 2.0)
    for number, network in enumerate(members.networks()):
        hidden = network[1](network[0](images[number]))
        values = [soft_nearest_neighbor_loss(layer, labels[number], 1.0) for layer in (hidden, network[2](hidden))]
        torch.testing.assert_close(losses[number] - cross_entropies[number], 2 * torch.stack(values).min())


def test_the_members_of_an_ensemble_differ(make: Make, labeled: Dataset) -> None:
    run = make("run", seeds="0:2", ensemble="vectorized")
    train_classifier(run, labeled, CPU)
    first, second = state_of(run)["members"]["networks"]
    assert differences(first, second)
    last = metrics(run)[-1]
    assert last["cross_entropy/test"] == pytest.approx(
        (last["seed-0/cross_entropy/test"] + last["seed-1/cross_entropy/test"]) / 2
    )


@pytest.mark.parametrize("arch", CLASSIFIERS.names())
def test_every_classifier_trains_and_its_hidden_layers_are_read(make: Make, labeled: Dataset, arch: str) -> None:
    run = make("run", arch=arch, set=(SMALL[arch],) if arch in SMALL else (), steps=1)
    train_classifier(run, labeled, CPU)
    fresh = build_ensemble(run.plan, CPU).state_dict()["networks"][0]
    trained = state_of(run)["members"]["networks"][0]
    weights = [name for name, _ in build_network(run.plan, 0).named_parameters()]
    unmoved = [name for name in weights if torch.equal(fresh[name], trained[name])]
    assert not unmoved
    last = metrics(run)[-1]
    for half in ("train", "test"):
        assert all(0 <= last[f"entanglement/{half}/{layer}"] < 3 for layer in run.plan.layers)
        assert {f"accuracy/{half}", f"cross_entropy/{half}", f"calibration_error/{half}"} <= last.keys()


def test_it_learns_and_the_readings_are_right(make: Make, labeled: Dataset) -> None:
    run = make("run", steps=150, log_every=150, learning_rate=0.01, checkpoint_every=150)
    outcome = train_classifier(run, labeled, CPU)
    assert outcome.scalars["accuracy/test"] > 0.95
    network = build_ensemble(run.plan, CPU)
    network.load_state_dict(state_of(run)["members"])
    (net,) = network.networks()
    images = labeled.test_images.float() / 127.5 - 1
    assert labeled.test_labels is not None
    with torch.no_grad():
        hidden = net.eval()[1](net[0](images))
        logits = net(images)
    value = soft_nearest_neighbor_loss(hidden, labeled.test_labels, "optimal")
    assert outcome.scalars["entanglement/test/fc1"] == pytest.approx(float(value), rel=1e-4)
    assert outcome.scalars["cross_entropy/test"] == pytest.approx(float(F.cross_entropy(logits, labeled.test_labels)))
    right = (logits.argmax(1) == labeled.test_labels).double().mean()
    assert outcome.scalars["accuracy/test"] == pytest.approx(float(right))
    with torch.no_grad():
        logits = net(labeled.train_images.float() / 127.5 - 1)
    assert labeled.train_labels is not None
    assert outcome.scalars["cross_entropy/train"] == pytest.approx(float(F.cross_entropy(logits, labeled.train_labels)))


@pytest.mark.parametrize(("every", "losses"), [(1, range(1, 11)), (4, (4, 5, 6, 8, 10))])
def test_only_what_is_measured_at_a_step_is_reported(
    make: Make, labeled: Dataset, monkeypatch: pytest.MonkeyPatch, every: int, losses: list[int]
) -> None:
    """Losses at each step or, as on a GPU, now and then and where something is read or saved."""
    monkeypatch.setattr(classifier, "LossMonitor", lambda check_every, explain: LossMonitor(every, explain))
    run = make("run", seeds="0:2", steps=10, log_every=5, checkpoint_every=6)
    reported: dict[int, dict[str, float]] = {}

    def note(step: int, measured: dict[str, float]) -> None:
        reported[step] = dict(measured)

    train_classifier(run, labeled, CPU, report=note)
    assert list(reported) == list(range(1, 11))
    assert [step for step in reported if "loss/classifier" in reported[step]] == list(losses)
    assert [step for step in reported if "accuracy/test" in reported[step]] == [5, 10]
    for row in metrics(run)[1:]:
        assert reported[int(row["step"])] | {"step": row["step"]} == row
    run.set_steps(12)
    train_classifier(run, labeled, CPU, start=load_newest(run.checkpoints, holds="members"), report=note)
    assert "accuracy/test" not in reported[11]
    assert ("loss/classifier" in reported[11]) == (every == 1)


def test_what_is_read_is_the_same_in_every_run(make: Make, labeled: Dataset) -> None:
    together, alone = make("together", seeds="1,5", steps=1), make("alone", seed=5, steps=1)
    for run in (together, alone):
        train_classifier(run, labeled, CPU)
    for tag, value in metrics(alone)[0].items():
        if tag != "step":
            assert metrics(together)[0][f"seed-5/{tag}"] == pytest.approx(value, rel=1e-6)


def test_alpha_and_rate_are_those_of_the_schedule_and_stay_at_its_end(
    make: Make, labeled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    backward = SequentialEnsemble.backward

    def noted(members: SequentialEnsemble, images: Any, labels: Any, alpha: float) -> Any:
        seen.append((alpha, members.optimizer.param_groups[0]["lr"]))
        return backward(members, images, labels, alpha)

    monkeypatch.setattr(SequentialEnsemble, "backward", noted)
    run = make("run", steps=3, alpha=-0.3, alpha_final=0.1, learning_rate=0.4, learning_rate_final=0.004)
    train_classifier(run, labeled, CPU)
    again = ClassifierRun.open(run.path)
    again.set_steps(5)
    train_classifier(again, labeled, CPU, start=state_of(run))
    whole = [(-0.3, 0.4), (-0.1, 0.04), (0.1, 0.004), (0.1, 0.004), (0.1, 0.004)]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(whole))


def test_bf16_is_near_fp32_and_not_it(make: Make, labeled: Dataset) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        members = build_ensemble(make(precision, precision=precision).plan, CPU)
        images = labeled.train_images[None, :24].float() / 127.5 - 1
        assert labeled.train_labels is not None
        losses.append(members.backward(images, labeled.train_labels[None, :24], -0.1)[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_vectorized_layers_are_taken_before_anything_writes_over_them(labeled: Dataset) -> None:
    """resnet18 has in-place ReLUs behind its batch norms."""
    values = []
    for ensemble in ("sequential", "vectorized"):
        config = ClassifyConfig(
            dataset=labeled.name, arch="resnet18", layers="bn1", seeds="0,1", ensemble=ensemble, batch_size=24
        )
        members = build_ensemble(make_classify_plan(config, labeled), CPU)
        images = labeled.train_images[:24].float() / 127.5 - 1
        assert labeled.train_labels is not None
        values.append(members.entanglement(images, labeled.train_labels[:24])["bn1"])
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)


def test_the_plan_names_the_layers_that_are_run_and_not_the_logits(make: Make) -> None:
    assert make("all", layers="fc*,logits").plan.layers == ("fc1", "fc2")
    with pytest.raises(ValueError, match="no hidden layer was run: logits"):
        make("none", layers="logits")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", "many"), ("seeds", []), ("batch_size", 0), ("distance", "foo"), ("precision", "fp8"),
        ("layers", []), ("optimizer", "sdg"), ("alpha", "x"), ("learning_rate", float("nan")), ("schedule_steps", 0),
        ("temperature", "hot"), ("num_classes", 1), ("regularizer", "triplet"), ("attack", "pdg:0.1"),
    ],
)  # fmt: skip
def test_a_plan_no_user_could_have_made_is_refused(make: Make, name: str, value: Any) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(make("run").plan)))
    assert classify_plan_from_json(values).layers == ("fc1", "fc2")
    with pytest.raises(ValueError, match=name):
        classify_plan_from_json(values | {"adversarial_training" if name == "attack" else name: value})


def test_a_run_from_before_adversaries_and_triplets_goes_on(make: Make, labeled: Dataset) -> None:
    run = make("run")
    train_classifier(run, labeled, CPU, should_stop=stop_after(3))
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    assert config["plan"].pop("regularizer") == "snnl"
    assert config["plan"].pop("adversarial_training") is None
    path.write_text(json.dumps(config))
    again = ClassifierRun.open(run.path)
    assert again.plan == run.plan
    assert train_classifier(again, labeled, CPU, start=state_of(run)).finished


def test_alpha_and_learning_rate_on_their_way() -> None:
    assert [along(-2.0, 2.0, step, 5) for step in (1, 2, 3, 4, 5)] == [-2, -1, 0, 1, 2]
    assert [falling(0.4, 0.004, step, 3) for step in (1, 2, 3)] == pytest.approx([0.4, 0.04, 0.004])
    assert falling(0.4, 0.0, 3, 3) == 0
    assert along(1.0, 5.0, 1, 1) == falling(1.0, 5.0, 1, 1) == 1


def test_calibration_error() -> None:
    sure = torch.tensor([[9.0, -9.0]] * 4)
    assert float(calibration_error(sure, torch.tensor([0, 0, 0, 0]))) == pytest.approx(0, abs=1e-6)
    assert float(calibration_error(sure, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.5, abs=1e-6)
    # 0.6 and 0.8 sure, in two bins: |1 - 0.6| / 2 + |0 - 0.8| / 2
    mixed = torch.tensor([[0.6, 0.4], [0.8, 0.2]]).log()
    assert float(calibration_error(mixed, torch.tensor([0, 1]))) == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("kind", [SequentialEnsemble, VectorizedEnsemble])
def test_a_loss_that_is_not_finite_ends_the_run(
    make: Make, labeled: Dataset, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    calls, sound = 0, kind.backward

    def backward(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        losses, cross_entropies = sound(*arguments)
        return losses * torch.tensor([1, math.nan if calls == 5 else 1]), cross_entropies

    monkeypatch.setattr(kind, "backward", backward)
    run = make("run", seeds="0:2", ensemble="sequential" if kind is SequentialEnsemble else "vectorized")
    with pytest.raises(DivergedError, match="step 5: the network of seed 1's loss is nan; all weights are finite"):
        train_classifier(run, labeled, CPU)
    assert state_of(run)["step"] == 4


def test_weights_that_are_not_finite_end_the_run(make: Make, labeled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("run", seeds="0:2", ensemble="vectorized", learning_rate=1.0)
    monkeypatch.setattr("snngan.training.classifier.falling", lambda *_: math.inf)
    with pytest.raises(DivergedError, match=r"step 1: \d+ of the \d+ values of the network of seed 0's .* are not"):
        train_classifier(run, labeled, CPU)


def test_other_data_and_other_networks_are_refused(make: Make, labeled: Dataset) -> None:
    run = make("run")
    train_classifier(run, labeled, CPU)
    assert labeled.train_labels is not None
    relabeled = dataclasses.replace(labeled, train_labels=labeled.train_labels.flip(0))
    with pytest.raises(ValueError, match="and their labels are not the ones the run was started with"):
        train_classifier(run, relabeled, CPU, start=state_of(run))
    with pytest.raises(CheckpointError, match="it is not of 2 networks"):
        train_classifier(make("two", seeds="0:2"), labeled, CPU, start=state_of(run))
    with pytest.raises(CheckpointError, match="its network is another"):
        train_classifier(make("wide", set=("widths=32",)), labeled, CPU, start=state_of(run))


def test_folders_of_two_kinds(make: Make) -> None:
    run = make("run")
    assert isinstance(open_run(run.path), ClassifierRun)
    assert ClassifierRun.open(run.path).plan == run.plan
    with pytest.raises(ValueError, match="is the run of a classifier; this takes a generator's"):
        GanRun.open(run.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "cnm"}, "unknown classifier 'cnm'; did you mean 'cnn'"),
        ({"set": ("width=3",)}, "unknown option of --set 'width'; did you mean 'widths'"),
        ({"set": ("widths=3-x",)}, "widths takes whole numbers"),
        ({"layers": "fc1,conv9"}, "no layer matches 'conv9'; the model has: flat, fc1"),
        ({"temperature": "hot"}, "temperature must be a multiple"),
        ({"seeds": "4:4"}, "--seeds takes 0:4"),
        ({"seeds": ""}, "--seeds takes 0:4"),
        ({"seeds": "0:2", "seed": 7}, "--seed 7 and --seeds 0:2: give one of them"),
        ({"seeds": "0:300000000"}, "300000000 networks side by side; at most 1000"),
        ({"alpha": math.inf}, "alpha must lie in"),
        ({"batch_size": 97}, "larger than the 96 training images"),
        ({"learning_rate": -1.0}, "learning_rate must lie in"),
    ],
)
def test_what_a_plan_refuses(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("run", **options)


def test_data_without_labels_are_refused(labeled: Dataset) -> None:
    config = ClassifyConfig()
    for wrong, message in (
        (dataclasses.replace(labeled, train_labels=None), "has no labels"),
        (dataclasses.replace(labeled, test_labels=None), "has no labels"),
        (dataclasses.replace(labeled, train_labels=torch.zeros(96, dtype=torch.int64)), "of 2 classes or more"),
        (dataclasses.replace(labeled, train_labels=torch.arange(96) + 10**12), "number the classes from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            make_classify_plan(config, wrong)


@pytest.mark.parametrize(("text", "seeds"), [("7", (7,)), ("0:4", (0, 1, 2, 3)), ("0,3,5", (0, 3, 5)), ("2:3", (2,))])
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3:1", "1,1", "-1", "1,-2", "0:", "1.5"])
def test_seeds_that_do_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds takes 0:4"):
        parse_seeds(text)


def test_small_images_are_refused_in_words() -> None:
    for arch, shape in (("cnn", (1, 3, 3)), ("resnet15", (1, 4, 4)), ("resnet18", (3, 7, 7))):
        with pytest.raises(ValueError, match="feedforward"):
            CLASSIFIERS[arch]().network(shape, 3)
    assert math.prod(CLASSIFIERS["feedforward"]().network((1, 1, 2), 3)(torch.zeros(5, 1, 1, 2)).shape) == 15


@pytest.mark.parametrize("first", ["sequential", "vectorized"])
def test_an_ensemble_goes_on_in_turn_or_vectorized(make: Make, labeled: Dataset, first: str) -> None:
    """Each network's optimizer counts its own steps."""
    second = {"sequential": "vectorized", "vectorized": "sequential"}[first]
    options: dict[str, Any] = {"seeds": "0:3", "alpha": 0.0, "steps": 3}
    start = make("start", ensemble=first, **options)
    train_classifier(start, labeled, CPU)
    found = []
    for ensemble in (first, second):
        run = make(f"on-{ensemble}", **options | {"steps": 6, "ensemble": ensemble})
        train_classifier(run, labeled, CPU, start=state_of(start))
        found.append(state_of(run)["members"])
    assert found[0]["optimizer"]["state"].keys() == found[1]["optimizer"]["state"].keys()
    for state in found:
        counters = [parts["step"] for parts in state["optimizer"]["state"].values()]
        assert all(float(each) == 6 for each in counters)
        assert len({each.data_ptr() for each in counters}) == len(counters)
    torch.testing.assert_close(found[1]["networks"], found[0]["networks"], rtol=1e-4, atol=1e-5)
