"""NaN, infinity and overflow: the run ends, names the place and a remedy, and resumes from the checkpoint before."""

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
from reference.runs import CPU, classifier_config, gan_config, new_run, state_of, train_run
from reference.states import differences
from torch import Tensor

from snngan.checkpoint import load_newest
from snngan.cli import main
from snngan.config import Config
from snngan.data import Dataset
from snngan.data.batches import Batches
from snngan.data.npz import save_dataset
from snngan.objectives import OBJECTIVES, AdversarialOptions
from snngan.training.divergence import DivergedError
from snngan.training.ensemble import SequentialEnsemble, VectorizedEnsemble
from snngan.training.gan import GanTrainer
from snngan.training.run_folder import RunFolder, open_run

AT, STEPS, SAVED = 5, 7, 4
"""Step of the fault, last step, and steps between checkpoints."""
HUGE = 3e38
"""The largest float32 and bfloat16 are 3.4e38."""
LEARNED = ("temperature=learned:1", "spectral_norm=false")
"""Settings of snnl-projected with everything that can break."""
PLAIN = ("generator_norm=none", "discriminator_norm=none")
ONLY = range(AT, AT + 1)
LOWER, BOUND = "Try a lower --learning-rate", "an objective that bounds its discriminator"
LOWER_BOTH = f"{LOWER}, or an --alpha nearer to 0"
CORRECT = "Correct the data, and start a new run"
KINDS = pytest.mark.parametrize("kind", [SequentialEnsemble, VectorizedEnsemble])
Fault = Callable[[Any], AbstractContextManager[None]]
"""Wraps one training step of a GAN, or one backward pass of an ensemble."""
MakeRun = Callable[..., RunFolder[Any]]
unbroken: dict[str, dict[str, Any]] = {}
"""Last states of runs without a fault, by config."""


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # half of the time


@pytest.fixture
def points() -> Dataset:
    """Return 96 + 16 points in the plane: an epoch is 6 batches."""
    both = torch.rand(112, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Dataset("random-points", both[:96], None, both[96:], None)


@pytest.fixture
def run_of(points: Dataset, tmp_path: Path) -> MakeRun:
    """Return a function that makes a new run folder ``name`` of a tiny GAN, with sample grids only at its end."""

    def make(name: str, *settings: str, data: Dataset = points, **options: Any) -> RunFolder[Any]:
        tiny: dict[str, Any] = {
            "objective": "snnl-projected", "steps": STEPS, "log_every": 3, "checkpoint_every": SAVED,
            "sample_every": 100,
        }  # fmt: skip
        return new_run(tmp_path / name, gan_config(data, *settings, **tiny | options))

    return make


@pytest.fixture
def classifiers_of(labeled: Dataset, tmp_path: Path) -> MakeRun:
    """Return a function that makes a new run folder ``name`` of classifiers of two seeds."""

    def make(name: str, kind: type, *, data: Dataset = labeled, **options: Any) -> RunFolder[Any]:
        tiny: dict[str, Any] = {
            "steps": STEPS, "checkpoint_every": SAVED, "log_every": 3, "layers": "fc2", "temperature": "1",
            "seeds": "0:2", "ensemble": "sequential" if kind is SequentialEnsemble else "vectorized",
        }  # fmt: skip
        return new_run(tmp_path / name, classifier_config(data, **tiny | options))

    return make


def inject(patch: pytest.MonkeyPatch, kind: type, fault: Fault, steps: Iterable[int]) -> None:
    """Wrap those updates of every GAN, or of every ensemble of that kind, counted from 1, in ``fault``."""
    name = "update" if kind is GanTrainer else "backward"
    normal, count = getattr(kind, name), 0

    def faulty(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        with fault(self) if count in steps else nullcontext():
            return normal(self, *arguments)

    patch.setattr(kind, name, faulty)


def tensor_of(owner: Any, network: str, name: str) -> Tensor:
    """Return a weight or buffer by its name in a message; ``network`` of an ensemble is the index of a seed."""
    if isinstance(owner, VectorizedEnsemble):
        return (owner.weights | owner.buffers)[name][int(network)]
    networks = owner.networks()
    module = networks[int(network)] if isinstance(networks, list) else networks[network]
    found: Tensor = module.state_dict(keep_vars=True)[name]
    return found


def set_one(network: str, name: str, value: float) -> Fault:
    """Set one value of a weight after the step."""

    @contextmanager
    def fault(owner: Any) -> Iterator[None]:
        yield
        tensor_of(owner, network, name).detach().view(-1)[0] = value

    return fault


def fill(network: str, name: str, value: float) -> Fault:
    """Set a whole weight before the step."""

    @contextmanager
    def fault(owner: Any) -> Iterator[None]:
        tensor_of(owner, network, name).detach().fill_(value)
        yield

    return fault


def gradient(network: str, name: str, value: float) -> Fault:
    """Set one value of a weight's gradient."""

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
    """Multiply all weights of the discriminator after the step."""

    @contextmanager
    def fault(trainer: GanTrainer) -> Iterator[None]:
        yield
        for weight in trainer.discriminator.parameters():
            weight.detach().mul_(factor)

    return fault


def message_of(
    monkeypatch: pytest.MonkeyPatch, run: Any, data: Dataset, fault: Fault, steps: Iterable[int] = ONLY,
    kind: type = GanTrainer,
) -> str:  # fmt: skip
    """Return the message of a run that the fault must end."""
    with monkeypatch.context() as patch:
        inject(patch, kind, fault, steps)
        with pytest.raises(DivergedError) as caught:
            train_run(run, data)
    return str(caught.value)


def check_message(message: str, place: str, log_every: int, advice: str = LOWER) -> None:
    """Check step, place and the complete advice: nothing is advised that helps only elsewhere."""
    found = re.fullmatch(r"step (\d+): (.*)\. (\S.*)", message)
    assert found is not None, message
    assert AT <= int(found[1]) <= math.ceil(AT / log_every) * log_every, message
    assert re.search(rf"(\w of|in) {re.escape(place)} ?([(a]|$)", found[2]), message
    if not place.startswith("the discriminator's"):  # whose infinity may be growth, with more advice
        assert found[3] == advice, message
    assert found[3].startswith(advice), message


def not_finite(value: Any, path: str = "") -> list[str]:
    """Return the paths in a saved state that hold NaN or infinity."""
    if isinstance(value, dict):
        return [line for key, each in value.items() for line in not_finite(each, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [line for number, each in enumerate(value) for line in not_finite(each, f"{path}/{number}")]
    if isinstance(value, Tensor):
        return [] if bool(value.isfinite().all()) else [path]
    return [path] if isinstance(value, float) and not math.isfinite(value) else []


def check_kept(run: Any, data: Dataset, kept: Any = None) -> None:
    """Check that the newest checkpoint is finite, and that resumed without the fault it ends as an unbroken run."""
    kept = kept or state_of(run)
    assert kept["step"] == SAVED
    assert not_finite(kept) == []
    config = repr(run.config)
    if config not in unbroken:
        other = new_run(run.path.with_name("unbroken"), run.config)
        train_run(other, data)
        unbroken[config] = state_of(other)
    assert train_run(open_run(run.path, Config), data, kept).finished
    assert differences(state_of(run), unbroken[config]) == []
    assert not_finite(unbroken[config]) == []


@pytest.mark.parametrize(
    ("objective", "value"), [*((name, math.inf) for name in OBJECTIVES.names()), ("gan", math.nan), ("wgan", -math.inf)]
)
def test_values_in_the_data_are_named(run_of: MakeRun, points: Dataset, objective: str, value: float) -> None:
    """The checkpoint continues in a run with sound data, since other data make another run."""
    numbers = Batches(torch.arange(96.0).view(96, 1, 1, 1), 16, seed=0, device=CPU)
    drawn = [numbers.next_stored()[0] for _ in range(AT)]
    images = points.train_images.clone()
    images[int(drawn[-1][3]), 0, 0, 1] = value
    broken = replace(points, train_images=images)
    own = {"discriminator_steps": 1} if issubclass(OBJECTIVES[objective].Options, AdversarialOptions) else {}
    run = run_of("run", data=broken, objective=objective, **own)
    says = rf"step {AT}: the (\w+)'s loss is (nan|-?inf); the real images hold NaN or infinity\. {CORRECT}"
    with pytest.raises(DivergedError, match=f"^{says}$"):
        train_run(run, broken)
    check_kept(run_of("corrected", objective=objective, **own), points, state_of(run))


def test_values_in_held_out_data_are_refused_before_the_first_step(run_of: MakeRun, points: Dataset) -> None:
    images = points.test_images.clone()
    images[3, 0, 0, 0] = math.nan
    broken = replace(points, test_images=images)
    run = run_of("run", data=broken)
    with pytest.raises(ValueError, match="finite"):
        train_run(run, broken)
    assert not list(run.path.rglob("step-*"))


WEIGHTS = {
    "generator": ("0.weight", "6.bias", "4.running_var"),
    "discriminator": ("1.weight", "5.running_mean"),
    "ema_generator": ("3.weight", "4.running_mean"),
    "objective": ("temperature._extra_state",),
}
GRADIENTS = (("generator", "6.bias"), ("discriminator", "7.weight"))
OPTIMIZERS = (
    ("adam", "exp_avg_sq", "fp32", 3),
    ("adam", "exp_avg_sq", "bf16", 3),
    ("rmsprop", "square_avg", "fp32", 1),
)
"""Optimizer, name of its running mean of squares, precision, and steps between logs."""
FAULTS: list[tuple[Fault, str, dict[str, Any]]] = [
    *(
        (set_one(network, name, value), f"the {network}'s {name}", {"log_every": 1 if network == "objective" else 3})
        for value in (math.nan, math.inf) for network, names in WEIGHTS.items() for name in names
    ),
    *(
        (gradient(network, name, value), f"the {network}'s {name}", {"log_every": log_every})
        for value, log_every in ((math.nan, 3), (math.inf, 1)) for network, name in GRADIENTS
    ),
    *(
        (gradient(network, name, 1e30), f"{memory} of the {network}'s {name}",
         {"log_every": log_every, "precision": precision, "optimizer": optimizer})
        for optimizer, memory, precision, log_every in OPTIMIZERS for network, name in GRADIENTS
    ),
]  # fmt: skip
"""What breaks, the place that the message names, and options of the run.

The square of a huge gradient overflows: no loss shows it, and the weight would never change again.
"""


@pytest.mark.parametrize(("fault", "place", "options"), FAULTS)
def test_a_broken_weight_gradient_or_optimizer_is_named(
    run_of: MakeRun, points: Dataset, monkeypatch: pytest.MonkeyPatch, fault: Fault, place: str, options: dict[str, Any]
) -> None:
    optimizer = [f"{name}={value}" for name, value in options.items() if name == "optimizer"]
    run = run_of("run", *LEARNED, *optimizer, **{name: options[name] for name in options if name != "optimizer"})
    message = message_of(monkeypatch, run, points, fault)
    advice = f"{LOWER}, or --precision fp32" if options.get("precision") == "bf16" else LOWER
    check_message(message, place, options["log_every"], advice)
    assert ("although the losses were" in message) or not optimizer
    check_kept(run, points)


@pytest.mark.parametrize(("network", "name"), [("generator", "3.weight"), ("discriminator", "4.weight")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_that_overflow_are_named(
    run_of: MakeRun, points: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str, network: str, name: str
) -> None:
    """All weights are finite, the activations are not."""
    options = {"objective": "gan", "precision": precision}
    run = run_of("run", *PLAIN, **options)
    message = message_of(monkeypatch, run, points, fill(network, name, HUGE))
    assert message.startswith(f"step {AT}: the discriminator's loss is "), message
    advice = [LOWER] + ["--precision fp32"] * (precision == "bf16") + [BOUND] * (network == "discriminator")
    place = f"all weights are finite, the largest is {HUGE:.3g} in the {network}'s {name}. {', or '.join(advice)}"
    assert re.search(f"{re.escape(place)}(, such as [-a-z ]+)?$", message), message
    check_kept(run, points)


@pytest.mark.parametrize(("log_every", "precision"), [(1, "fp32"), (3, "bf16")])
def test_a_discriminator_that_explodes_is_named(
    run_of: MakeRun, points: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str, log_every: int
) -> None:
    run = run_of("run", *PLAIN, objective="gan", precision=precision, log_every=log_every)
    message = message_of(monkeypatch, run, points, growth(1e7), range(AT, STEPS))
    says = (
        rf"step {AT + 2}: the \w+'s loss is (nan|inf); all weights are finite, the largest is .* the discriminator's "
    )
    advice = "Try a lower --learning-rate, or " + "--precision fp32, or " * (precision == "bf16") + BOUND
    assert re.match(rf"{says}\d\.weight\. {advice}", message), message
    check_kept(run, points)


@pytest.mark.parametrize(("settings", "factor"), [((), 10.0), (PLAIN, 1e3)], ids=["norms", "plain"])
def test_a_discriminator_that_grows_is_named(
    run_of: MakeRun, points: Dataset, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], factor: float
) -> None:
    """Batch statistics or squared gradients overflow while the losses are finite."""
    run = run_of("run", *settings, objective="gan", steps=20, log_every=1)
    message = message_of(monkeypatch, run, points, growth(factor), range(AT, 20))
    assert "although the losses were" in message
    assert not_finite(state_of(run)) == []
    assert BOUND in message


def test_images_of_the_average_that_overflow_are_named(
    run_of: MakeRun, points: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the average are finite, and it has no loss."""

    @contextmanager
    def fault(trainer: GanTrainer) -> Iterator[None]:
        yield
        weight = tensor_of(trainer, "ema_generator", "3.weight").detach()
        weight.fill_(HUGE)[:, ::2] *= -1

    run = run_of("run", *PLAIN, objective="gan", log_every=1)
    message = message_of(monkeypatch, run, points, fault)
    check_message(message, "the ema_generator's 3.weight", 1)
    check_kept(run, points)


@KINDS
@pytest.mark.parametrize(
    ("fault", "place", "options"),
    [
        (gradient("1", "fc2.0.weight", math.nan), "", {"log_every": 3}),
        (set_one("1", "fc2.0.weight", math.nan), "", {"log_every": 3}),
        (gradient("1", "fc2.0.weight", 1e30), "exp_avg_sq of ", {"log_every": 3, "precision": "bf16"}),
    ],
)
def test_the_network_of_a_seed_is_named(
    classifiers_of: MakeRun, labeled: Dataset, monkeypatch: pytest.MonkeyPatch,
    kind: type, fault: Fault, place: str, options: dict[str, Any],
) -> None:  # fmt: skip
    run = classifiers_of("run", kind, **options)
    message = message_of(monkeypatch, run, labeled, fault, kind=kind)
    advice = f"{LOWER_BOTH}, or --precision fp32" if "precision" in options else LOWER_BOTH
    check_message(message, f"{place}the network of seed 1's fc2.0.weight", options["log_every"], advice)
    assert ("although the losses were" in message) or not place
    check_kept(run, labeled)


@KINDS
def test_values_in_the_data_of_a_classifier_are_named(classifiers_of: MakeRun, points: Dataset, kind: type) -> None:
    images = points.train_images.clone()
    images[3, 0, 0, 1] = math.inf
    labels = [torch.arange(len(each)) % 3 for each in (images, points.test_images)]
    broken = Dataset("broken", images, labels[0], points.test_images, labels[1])
    with pytest.raises(DivergedError, match=f"hold NaN or infinity. {CORRECT}$"):
        train_run(classifiers_of("run", kind, data=broken), broken)


COMMON = "--dataset npz:data.npz --batch-size 24 --device cpu --steps 7 --log-every 3 --checkpoint-every 4"
LAYERS = "--arch feedforward --set widths=16-8 --layers fc2 --temperature 1"
COMMANDS = {
    "gan": f"train {COMMON} --objective gan --arch mlp --set width=16 --set latent_dim=8 --sample-every 100",
    "sequential": f"classify train {COMMON} {LAYERS} --seeds 0:2 --ensemble sequential",
    "vectorized": f"classify train {COMMON} {LAYERS} --seeds 0:2 --ensemble vectorized",
}
KIND_OF = {"gan": GanTrainer, "sequential": SequentialEnsemble, "vectorized": VectorizedEnsemble}
PLACES = {
    GanTrainer: ("generator", "3.weight"),
    SequentialEnsemble: ("1", "fc2.0.weight"),
    VectorizedEnsemble: ("1", "fc2.0.weight"),
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], labeled: Dataset, tmp_path: Path) -> Callable[[str, int], list[str]]:
    """Return a function that runs a command that must end with a status, and returns its lines other than progress."""
    save_dataset(labeled, tmp_path / "data.npz")

    def run(command: str, status: int) -> list[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(command.split())
        said = capsys.readouterr()
        assert left.value.code == status, said
        assert "Traceback" not in said.out + said.err
        return [line for line in said.err.splitlines() if not line.startswith("step ")]

    return run


@pytest.mark.parametrize(
    ("fault", "at", "step", "kept"),
    [
        (gradient, AT, 6, r"Kept: the checkpoint of step 4 and those before it, in run"),
        (set_one, 2, 3, r"Nothing was saved before that; run holds its metrics"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_one_line_and_can_be_resumed(
    cli: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch,
    command: str, fault: Callable[..., Fault], at: int, step: int, kept: str,
) -> None:  # fmt: skip
    kind = KIND_OF[command]
    advice = LOWER if kind is GanTrainer else LOWER_BOTH
    with monkeypatch.context() as patch:
        inject(patch, kind, fault(*PLACES[kind], math.nan), range(at, at + 1))
        (line,) = cli(f"{COMMANDS[command]} --run-dir run", 1)
    assert re.fullmatch(rf"Error: step {step}: .* are not finite.*\. {advice}\. {kept}", line), line
    assert bool(list(Path("run").rglob("*.safetensors"))) == kept.startswith("Kept")
    assert cli("resume run", 0) == []
    assert cli(f"{COMMANDS[command]} --run-dir unbroken", 0) == []
    resumed, expected = (load_newest(Path(name, "checkpoints"), pytest.fail) for name in ("run", "unbroken"))
    assert resumed["step"] == STEPS
    assert not_finite(resumed) == []
    assert differences(resumed, expected) == []
