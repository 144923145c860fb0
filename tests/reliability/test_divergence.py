"""NaN, infinity, overflow: the run ends in time, says where and what helps, and goes on from before all that."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.rows import bright_rows
from reference.states import differences
from torch import Tensor

from snngan.cli import main
from snngan.config import ClassifyConfig, TrainConfig
from snngan.data import Dataset
from snngan.data.batches import Batches
from snngan.data.npz import keep_npz
from snngan.objectives import OBJECTIVES
from snngan.training.checkpoint import load_newest
from snngan.training.classifier import train_classifier
from snngan.training.classifier_plan import make_classify_plan
from snngan.training.divergence import DivergedError
from snngan.training.ensemble import SequentialEnsemble, VectorizedEnsemble
from snngan.training.game import Game
from snngan.training.gan import train_gan
from snngan.training.plan import make_plan
from snngan.training.players import Players
from snngan.training.run_folder import ClassifierRun, GanRun

CPU = torch.device("cpu")
AT, STEPS, SAVED = 5, 7, 4
"""The step of the fault, the last one, and those between checkpoints."""
HUGE = 3e38
"""float32 ends at 3.4e38, and so does bfloat16."""
LEARNED = ("temperature=learned:1", "spectral_norm=false")
"""Of snnl-projected: a game in which everything that can break is there."""
PLAIN = ("generator_norm=none", "discriminator_norm=none")
ONLY = range(AT, AT + 1)
LOWER, BOUND = "Try a lower --learning-rate", "an objective that bounds its discriminator"
LOWER_BOTH = f"{LOWER}, or an --alpha nearer to 0"
MEND = "Mend the data, and begin a new run"
TRACKED = pytest.mark.parametrize("log_every", [1, 3])
VALUES = pytest.mark.parametrize("value", [math.nan, math.inf])
VALUES_AND_TRACKED = pytest.mark.parametrize(("value", "log_every"), [(math.nan, 1), (math.nan, 3), (math.inf, 3)])
KINDS = pytest.mark.parametrize("kind", [SequentialEnsemble, VectorizedEnsemble])
Fault = Callable[[Any], AbstractContextManager[None]]
"""Wraps one step of players, or one backward pass of members."""
RunOf, ClassifiersOf = Callable[..., GanRun], Callable[..., ClassifierRun]
unbroken: dict[str, dict[str, Any]] = {}
"""Last states by plan."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNNGAN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # half of the time


@pytest.fixture
def points() -> Dataset:
    """Return 96 + 16 points of the plane: an epoch is 6 batches."""
    both = torch.rand(112, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Dataset("random-points", both[:96], None, both[96:], None)


@pytest.fixture
def labeled() -> Dataset:
    return bright_rows(96, 48, noise=128, bright=100)


@pytest.fixture
def run_of(points: Dataset, tmp_path: Path) -> RunOf:
    """Return a function that makes a new run folder ``name`` of a tiny game, without pictures until its end."""

    def make(name: str, *settings: str, data: Dataset = points, **options: Any) -> GanRun:
        tiny: dict[str, Any] = {
            "arch": "mlp", "objective": "snnl-projected", "steps": STEPS, "batch_size": 16, "learning_rate": 1e-3,
            "log_every": 3, "checkpoint_every": SAVED, "sample_every": 100, "dataset": data.name,
            "set": ("width=16", "latent_dim=8", "hidden_layers=2", *settings),
        }  # fmt: skip
        return GanRun.create(tmp_path / name, make_plan(TrainConfig(**tiny | options), data), CPU)

    return make


@pytest.fixture
def classifiers_of(labeled: Dataset, tmp_path: Path) -> ClassifiersOf:
    """Return a function that makes a new run folder ``name`` of two seeds."""

    def make(name: str, kind: type, *, data: Dataset = labeled, **options: Any) -> ClassifierRun:
        tiny: dict[str, Any] = {
            "dataset": data.name, "arch": "feedforward", "set": ("widths=16-8",), "alpha": -0.1, "steps": STEPS,
            "batch_size": 24, "checkpoint_every": SAVED, "log_every": 3, "layers": "fc2", "temperature": "1",
            "seeds": "0:2", "ensemble": "sequential" if kind is SequentialEnsemble else "vectorized",
        }  # fmt: skip
        return ClassifierRun.create(tmp_path / name, make_classify_plan(ClassifyConfig(**tiny | options), data), CPU)

    return make


def inject(patch: pytest.MonkeyPatch, kind: type, fault: Fault, steps: Iterable[int]) -> None:
    """Wrap those steps of every game, or of every run of such members, counted from 1, in ``fault``."""
    name = "step" if kind is Game else "backward"
    normal, count = getattr(kind, name), 0

    def faulty(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        with fault(self.players if kind is Game else self) if count in steps else nullcontext():
            return normal(self, *arguments)

    patch.setattr(kind, name, faulty)


def tensor_of(owner: Any, network: str, name: str) -> Tensor:
    """Return a weight or buffer by the name that a message gives it; ``network`` of members is a seed's number."""
    if isinstance(owner, VectorizedEnsemble):
        return (owner.weights | owner.buffers)[name][int(network)]
    if isinstance(owner, SequentialEnsemble):
        module = owner.networks()[int(network)]
    elif network == "objective":
        module = owner.objective.state()
    else:
        module = getattr(owner, "averaged" if network == "average" else network)
    found: Tensor = module.state_dict(keep_vars=True)[name]
    return found


def set_one(network: str, name: str, value: float) -> Fault:
    """One value of a weight, after the step."""

    @contextmanager
    def fault(owner: Any) -> Iterator[None]:
        yield
        tensor_of(owner, network, name).detach().view(-1)[0] = value

    return fault


def fill(network: str, name: str, value: float) -> Fault:
    """A whole weight, before the step."""

    @contextmanager
    def fault(owner: Any) -> Iterator[None]:
        tensor_of(owner, network, name).detach().fill_(value)
        yield

    return fault


def gradient(network: str, name: str, value: float) -> Fault:
    """One value of one weight's gradient."""

    @contextmanager
    def fault(owner: Any) -> Iterator[None]:
        stacked = isinstance(owner, VectorizedEnsemble)
        weight = owner.weights[name] if stacked else tensor_of(owner, network, name)

        def broken(found: Tensor) -> Tensor:
            found = found.clone()
            (found[int(network)] if stacked else found)[(0,) * tensor_of(owner, network, name).dim()] = value
            return found

        hook = weight.register_hook(broken)
        try:
            yield
        finally:
            hook.remove()

    return fault


def growth(factor: float) -> Fault:
    """All of the discriminator, after the step."""

    @contextmanager
    def fault(players: Players) -> Iterator[None]:
        yield
        assert players.discriminator is not None
        for weight in players.discriminator.parameters():
            weight.detach().mul_(factor)

    return fault


def message_of(
    monkeypatch: pytest.MonkeyPatch, run: Any, data: Dataset, fault: Fault, steps: Iterable[int] = ONLY,
    kind: type = Game,
) -> str:  # fmt: skip
    """Return what a run that the fault must end says."""
    with monkeypatch.context() as patch:
        inject(patch, kind, fault, steps)
        with pytest.raises(DivergedError) as caught:
            trainer_of(run)(run, data, CPU)
    return str(caught.value)


def check_message(message: str, place: str, log_every: int, advice: str = LOWER) -> None:
    """Check step, place and the whole of the advice: what helps elsewhere is not said."""
    found = re.fullmatch(r"step (\d+): (.*)\. (\S.*)", message)
    assert found is not None, message
    assert AT <= int(found[1]) <= math.ceil(AT / log_every) * log_every, message
    assert re.search(rf"(\w of|in) {re.escape(place)} ?([(a]|$)", found[2]), message
    if not place.startswith("the discriminator's"):  # whose infinity may come of growth
        assert found[3] == advice, message
    assert found[3].startswith(advice), message


def not_finite(value: Any, path: str = "") -> list[str]:
    """Return where a saved state holds NaN or infinity."""
    if isinstance(value, dict):
        return [line for key, each in value.items() for line in not_finite(each, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [line for number, each in enumerate(value) for line in not_finite(each, f"{path}/{number}")]
    if isinstance(value, Tensor):
        return [] if bool(value.isfinite().all()) else [path]
    return [path] if isinstance(value, float) and not math.isfinite(value) else []


def trainer_of(run: Any) -> Callable[..., Any]:
    return train_gan if isinstance(run, GanRun) else train_classifier


def state_of(run: Any) -> dict[str, Any]:
    return load_newest(run.checkpoints, pytest.fail, holds="players" if isinstance(run, GanRun) else "members")


def check_kept(run: Any, data: Dataset, kept: Any = None) -> None:
    """Check the newest checkpoint, and that without the fault it leads where the unbroken run goes."""
    kept = kept or state_of(run)
    assert kept["step"] == SAVED
    assert not_finite(kept) == []
    plan, train = repr(run.plan), trainer_of(run)
    if plan not in unbroken:
        other = type(run).create(run.path.with_name("unbroken"), run.plan, CPU)
        train(other, data, CPU)
        unbroken[plan] = state_of(other)
    assert train(type(run).open(run.path), data, CPU, start=kept).finished
    assert differences(state_of(run), unbroken[plan]) == []
    assert not_finite(unbroken[plan]) == []


def test_what_is_not_finite_in_a_state_is_found() -> None:
    state = {"a": [torch.ones(2), torch.tensor([1.0, math.nan])], "b": {"c": -math.inf}, "d": (1.0, 3, "x", None)}
    assert not_finite(state) == ["/a/1", "/b/c"]


@pytest.mark.parametrize(
    ("objective", "value"), [*((name, math.inf) for name in OBJECTIVES.names()), ("gan", math.nan), ("wgan", -math.inf)]
)
def test_in_the_data(run_of: RunOf, points: Dataset, objective: str, value: float) -> None:
    """Other data are another run: what was kept goes on in one of the sound points."""
    numbers = Batches(torch.arange(96.0).view(96, 1, 1, 1), 16, seed=0, device=CPU)
    drawn = [numbers.next_stored() for _ in range(AT)]
    images = points.train_images.clone()
    images[int(drawn[-1][3]), 0, 0, 1] = value
    broken = replace(points, train_images=images)
    own = {} if objective == "snnl-pixel" else {"discriminator_steps": 1}
    run = run_of("run", data=broken, objective=objective, **own)
    says = rf"step {AT}: the (\w+)'s loss is (nan|-?inf); the real images hold NaN or infinity\. {MEND}"
    with pytest.raises(DivergedError, match=f"^{says}$"):
        train_gan(run, broken, CPU)
    check_kept(run_of("mended", objective=objective, **own), points, state_of(run))


@VALUES
def test_in_held_out_data(run_of: RunOf, points: Dataset, value: float) -> None:
    """That is known before the first step."""
    images = points.test_images.clone()
    images[3, 0, 0, 0] = value
    broken = replace(points, test_images=images)
    run = run_of("run", data=broken)
    with pytest.raises(ValueError, match="finite"):
        train_gan(run, broken, CPU)
    assert not list(run.path.rglob("step-*"))


@VALUES
@pytest.mark.parametrize(
    ("network", "name", "log_every"),
    [
        ("generator", "0.weight", 1),
        ("generator", "0.weight", 3),
        ("generator", "6.bias", 3),
        ("generator", "4.running_var", 3),
        ("discriminator", "1.weight", 3),
        ("discriminator", "5.running_mean", 3),
        ("average", "3.weight", 3),
        ("average", "4.running_mean", 3),
        ("objective", "_extra_state", 1),
    ],
)
def test_in_a_weight(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch,
    network: str, name: str, value: float, log_every: int,
) -> None:  # fmt: skip
    run = run_of("run", *LEARNED, log_every=log_every)
    message = message_of(monkeypatch, run, points, set_one(network, name, value))
    check_message(message, f"the {network}'s {name}", log_every)
    check_kept(run, points)


@VALUES_AND_TRACKED
@pytest.mark.parametrize(
    ("network", "name"), [("generator", "3.weight"), ("generator", "6.bias"), ("discriminator", "7.weight")]
)
def test_in_a_gradient(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch,
    network: str, name: str, value: float, log_every: int,
) -> None:  # fmt: skip
    run = run_of("run", *LEARNED, log_every=log_every)
    message = message_of(monkeypatch, run, points, gradient(network, name, value))
    check_message(message, f"the {network}'s {name}", log_every)
    check_kept(run, points)


@pytest.mark.parametrize(("network", "name"), [("generator", "3.weight"), ("discriminator", "7.weight")])
@pytest.mark.parametrize(
    ("optimizer", "memory", "precision", "log_every"),
    [("adam", "exp_avg_sq", "fp32", 3), ("adam", "exp_avg_sq", "bf16", 3), ("rmsprop", "square_avg", "fp32", 1)],
)
def test_in_what_an_optimizer_remembers(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch,
    network: str, name: str, optimizer: str, memory: str, precision: str, log_every: int,
) -> None:  # fmt: skip
    """The square of a huge gradient overflows: no loss shows it, and the weight would never move again."""
    settings, options = (*LEARNED, f"optimizer={optimizer}"), {"precision": precision, "log_every": log_every}
    run = run_of("run", *settings, **options)
    message = message_of(monkeypatch, run, points, gradient(network, name, 1e30))
    advice = LOWER if precision == "fp32" else f"{LOWER}, or --precision fp32"
    check_message(message, f"{memory} of the {network}'s {name}", log_every, advice)
    assert "though the losses were" in message
    check_kept(run, points)


@pytest.mark.parametrize(
    ("network", "name"),
    [("generator", "3.weight"), ("discriminator", "4.weight")],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overflow(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str, network: str, name: str
) -> None:
    """Finite weights, activations that are not."""
    options = {"objective": "gan", "precision": precision}
    run = run_of("run", *PLAIN, **options)
    message = message_of(monkeypatch, run, points, fill(network, name, HUGE))
    assert message.startswith(f"step {AT}: the discriminator's loss is "), message
    advice = [LOWER] + ["--precision fp32"] * (precision == "bf16") + [BOUND] * (network == "discriminator")
    place = f"all weights are finite, the largest {HUGE:.3g} in the {network}'s {name}. {', or '.join(advice)}"
    assert re.search(f"{re.escape(place)}(, such as [-a-z ]+)?$", message), message
    check_kept(run, points)


@TRACKED
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_discriminator_that_explodes(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str, log_every: int
) -> None:
    run = run_of("run", *PLAIN, objective="gan", precision=precision, log_every=log_every)
    message = message_of(monkeypatch, run, points, growth(1e7), range(AT, STEPS))
    says = (
        rf"step {AT + 2}: the \w+'s loss is (nan|inf); all weights are finite, the largest .* in the discriminator's "
    )
    advice = "Try a lower --learning-rate, or " + "--precision fp32, or " * (precision == "bf16") + BOUND
    assert re.match(rf"{says}\d\.weight\. {advice}", message), message
    check_kept(run, points)


@pytest.mark.parametrize("settings", [(), PLAIN], ids=["norms", "plain"])
@pytest.mark.parametrize("factor", [10.0, 1e3])
def test_a_discriminator_that_grows(
    run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], factor: float
) -> None:
    """Whatever overflows first, be it batch statistics or squared gradients, while the losses are finite."""
    run = run_of("run", *settings, objective="gan", steps=20, log_every=1)
    message = message_of(monkeypatch, run, points, growth(factor), range(AT, 20))
    assert "though the losses were" in message
    assert not_finite(state_of(run)) == []
    assert BOUND in message


def test_images_that_overflow_at_a_reading(run_of: RunOf, points: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite weights of the average, which has no loss."""

    @contextmanager
    def fault(players: Players) -> Iterator[None]:
        yield
        weight = tensor_of(players, "average", "3.weight").detach()
        weight.fill_(HUGE)[:, ::2] *= -1

    run = run_of("run", *PLAIN, objective="gan", log_every=1)
    message = message_of(monkeypatch, run, points, fault)
    check_message(message, "the average's 3.weight", 1)
    check_kept(run, points)


@KINDS
@pytest.mark.parametrize(("value", "log_every"), [(math.nan, 3), (math.inf, 1)])
@pytest.mark.parametrize("breaks", [gradient, set_one])
def test_in_a_classifier(
    classifiers_of: ClassifiersOf, labeled: Dataset, monkeypatch: pytest.MonkeyPatch,
    kind: type, log_every: int, breaks: Callable[..., Fault], value: float,
) -> None:  # fmt: skip
    run = classifiers_of("run", kind, log_every=log_every)
    message = message_of(monkeypatch, run, labeled, breaks("1", "fc2.0.weight", value), kind=kind)
    check_message(message, "the network of seed 1's fc2.0.weight", log_every, LOWER_BOTH)
    check_kept(run, labeled)


@pytest.mark.parametrize(("precision", "log_every"), [("fp32", 1), ("bf16", 3)])
@KINDS
def test_in_what_a_classifiers_optimizer_remembers(
    classifiers_of: ClassifiersOf, labeled: Dataset, monkeypatch: pytest.MonkeyPatch,
    kind: type, log_every: int, precision: str,
) -> None:  # fmt: skip
    options = {"precision": precision, "log_every": log_every}
    run = classifiers_of("run", kind, **options)
    message = message_of(monkeypatch, run, labeled, gradient("1", "fc2.0.weight", 1e30), kind=kind)
    assert "though the losses were" in message
    check_kept(run, labeled)
    advice = LOWER_BOTH if precision == "fp32" else f"{LOWER_BOTH}, or --precision fp32"
    check_message(message, "exp_avg_sq of the network of seed 1's fc2.0.weight", log_every, advice)


@KINDS
@VALUES
def test_in_the_data_of_a_classifier(classifiers_of: ClassifiersOf, points: Dataset, kind: type, value: float) -> None:
    images = points.train_images.clone()
    images[3, 0, 0, 1] = value
    labels = [torch.arange(len(each)) % 3 for each in (images, points.test_images)]
    broken = Dataset("broken", images, labels[0], points.test_images, labels[1])
    with pytest.raises(DivergedError, match=f"hold NaN or infinity. {MEND}$"):
        train_classifier(classifiers_of("run", kind, data=broken), broken, CPU)


COMMON = "--dataset npz:data.npz --batch-size 24 --device cpu --steps 7 --log-every 3 --checkpoint-every 4"
LAYERS = "--arch feedforward --set widths=16-8 --layers fc2 --temperature 1"
COMMANDS = {
    "gan": f"train {COMMON} --objective gan --arch mlp --set width=16 --set latent_dim=8 --sample-every 100",
    "in turn": f"classify train {COMMON} {LAYERS} --seeds 0:2 --ensemble sequential",
    "vectorized": f"classify train {COMMON} {LAYERS} --seeds 0:2 --ensemble vectorized",
}
OF_CLASSIFIERS = {"in turn": SequentialEnsemble, "vectorized": VectorizedEnsemble}
PLACES = {
    Game: ("generator", "3.weight"),
    SequentialEnsemble: ("1", "fc2.0.weight"),
    VectorizedEnsemble: ("1", "fc2.0.weight"),
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], labeled: Dataset, tmp_path: Path) -> Callable[[str, int], list[str]]:
    """Return a function that runs a command which must end with a status, and returns its lines of no progress."""
    keep_npz(labeled, tmp_path / "data.npz")

    def run(command: str, status: int) -> list[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(command.split())
        said = capsys.readouterr()
        assert left.value.code == status, said
        assert "Traceback" not in said.out + said.err
        return [line for line in said.err.splitlines() if not line.startswith("step ")]

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_so_in_one_line_and_resume_goes_on(
    cli: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    kind = OF_CLASSIFIERS.get(command, Game)
    fault = gradient(*PLACES[kind], math.nan)
    advice = LOWER if kind is Game else LOWER_BOTH
    with monkeypatch.context() as patch:
        inject(patch, kind, fault, ONLY)
        lines = cli(f"{COMMANDS[command]} --run-dir run", 1)
    assert len(lines) == 1, lines
    says = (
        rf"Error: step 6: .* are not finite.*\. {advice}\. Kept: the checkpoint of step 4 and those before it, in run"
    )
    assert re.fullmatch(says, lines[0]), lines[0]
    assert cli("resume run", 0) == []
    assert cli(f"{COMMANDS[command]} --run-dir unbroken", 0) == []
    resumed, unbroken = (
        load_newest(Path(name, "checkpoints"), pytest.fail, "players" if kind is Game else "members")
        for name in ("run", "unbroken")
    )
    assert resumed["step"] == STEPS
    assert not_finite(resumed) == []
    assert differences(resumed, unbroken) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_saved_nothing_says_so(
    cli: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    kind = OF_CLASSIFIERS.get(command, Game)
    fault = set_one(*PLACES[kind], math.nan)
    advice = LOWER if kind is Game else LOWER_BOTH
    with monkeypatch.context() as patch:
        inject(patch, kind, fault, range(2, 3))
        lines = cli(f"{COMMANDS[command]} --run-dir run", 1)
    assert len(lines) == 1, lines
    says = rf"Error: step 3: .* are not finite.*\. {advice}\. Nothing was saved before that; run holds its readings"
    assert re.fullmatch(says, lines[0]), lines[0]
    assert not list(Path("run").rglob("*.pt"))
    assert cli("resume run", 0) == []
    assert load_newest(Path("run/checkpoints"), pytest.fail, "players" if kind is Game else "members")["step"] == STEPS
