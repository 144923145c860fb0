"""The training loop: a run that is stopped and resumed equals the unbroken one, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from reference.runs import (
    CPU,
    classifier_config,
    gan_config,
    metrics_of,
    new_run,
    state_of,
    stop_after,
    train_run,
)
from reference.states import differences

from snngan.config import ClassifyConfig, Config
from snngan.data import Dataset
from snngan.objectives import OBJECTIVES
from snngan.training.run_folder import open_run

CONDITIONAL = ("conditional=true", "batch_size=18")
GANS = {
    **{name: (name, ()) for name in OBJECTIVES.names()},
    **{f"conditional {name}": (name, CONDITIONAL) for name in OBJECTIVES.names()},
    "learned temperatures of spaces": (
        "snnl-features",
        (*CONDITIONAL, "temperature=learned:1", "layers=conv1,fc"),
    ),
    "more real images": ("snnl-features", (*CONDITIONAL, "real_batch_size=30")),
    "learned temperature, in pixels": ("snnl-pixel", ("temperature=learned:0.5",)),
    "annealed temperature, in pixels": ("snnl-pixel", ("temperature=annealed:1",)),
    "optimal temperature": ("snnl-pixel", ("temperature=optimal", "form=literal")),
    "learned temperature": ("snnl-projected", ("temperature=learned:1", "discriminator_norm=batch")),
    "annealed temperature": ("snnl-projected", ("temperature=annealed:2", "optimizer=rmsprop")),
    "penalties and augmentation": (
        "snnl-projected",
        ("r1=1", "r2=0.5", "augment=flip", "diff_augment=color,translation,cutout"),
    ),
    "drifting, mirror images": ("drifting", ("augment=flip", *CONDITIONAL)),
    "several discriminator steps": ("gan", ("discriminator_steps=3", "spectral_norm=true")),
}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "one network": {"seed": 3, "temperature": "learned:1"},
    "sequential": {"seeds": "0:3", "ensemble": "sequential", "temperature": "annealed:1"},
    "vectorized": {"seeds": "0:3", "ensemble": "vectorized", "temperature": "learned:1"},
    "batch norm": {
        "seeds": "0,4",
        "ensemble": "vectorized",
        "arch": "resnet15",
        "set": ("width=2",),
        "temperature": "1",
        "layers": "stage3",
    },
    "attacked": {
        "seeds": "0:2",
        "ensemble": "sequential",
        "adversarial_training": "pgd:0.1:2",
        "regularizer": "triplet:0.5",
    },
    "attacked, vectorized": {"seeds": "0:2", "ensemble": "vectorized", "adversarial_training": "pgd:0.1:2"},
    "augmented": {"augment": "flip,crop"},
    "schedules": {"learning_rate": 0.1, "learning_rate_final": 0.001, "optimizer": "sgd", "alpha_final": 1.0},
}


def check_resume(config: Config, data: Dataset) -> None:
    """Compare a run with one that is stopped at step 3, then killed after step 5; checkpoints are every 2 steps."""
    unbroken, broken = new_run("unbroken", config), new_run("broken", config)
    assert train_run(unbroken, data).finished
    outcome = train_run(broken, data, should_stop=stop_after(3))
    assert (outcome.step, outcome.finished) == (3, False)
    for number, stop in enumerate((2, 99)):
        torch.manual_seed(number)  # another process has other global generators
        again = open_run(broken.path, Config)
        outcome = train_run(again, data, state_of(broken), should_stop=stop_after(stop))
        if stop == 2:
            (broken.checkpoints / "step-00000005.safetensors").unlink()
    assert (outcome.step, outcome.finished) == (config.steps, True)
    assert state_of(unbroken)["step"] == config.steps
    assert differences(state_of(unbroken), state_of(broken)) == []
    assert metrics_of(broken) == metrics_of(unbroken)
    assert [line["step"] for line in metrics_of(broken)] == list(range(config.steps + 1))
    for picture in sorted(unbroken.samples.glob("*")):
        assert (broken.samples / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("case", GANS)
def test_a_resumed_generator_equals_the_unbroken_one(dataset: Dataset, labeled: Dataset, case: str) -> None:
    objective, settings = GANS[case]
    data = labeled if "conditional=true" in settings else dataset
    check_resume(gan_config(data, *settings, objective=objective, steps=7), data)


@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
def test_a_resumed_conditional_network_equals_the_unbroken_one(labeled: Dataset, arch: str) -> None:
    settings = ("width=4", "latent_dim=8", *CONDITIONAL)
    check_resume(gan_config(labeled, objective="snnl-projected", arch=arch, set=settings), labeled)


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_resumed_classifier_equals_the_unbroken_one(labeled: Dataset, case: str) -> None:
    check_resume(classifier_config(labeled, **CLASSIFIERS[case]), labeled)


def test_runs_of_other_options_differ(dataset: Dataset) -> None:
    """The comparison above sees what it must."""
    states = []
    for name, options in {"a": {}, "b": {"seed": 1}, "c": {"steps": 5}}.items():
        run = new_run(name, gan_config(dataset, objective="gan", **options))
        train_run(run, dataset)
        states.append(state_of(run))
    for other in states[1:]:
        found = " ".join(differences(states[0], other))
        for part in ("generator", "ema_generator", "discriminator"):
            assert f"networks/{part}/" in found
        for part in ("optimizers/generator/", "optimizers/discriminator/", "noise", "batches/"):
            assert part in found


def test_a_run_that_is_trained_for_longer_equals_a_long_one(dataset: Dataset) -> None:
    long, short = (
        new_run(name, gan_config(dataset, objective="hinge", steps=steps)) for name, steps in (("a", 6), ("b", 4))
    )
    train_run(long, dataset)
    train_run(short, dataset)
    again = open_run(short.path, Config)
    again.set_steps(6)
    train_run(again, dataset, state_of(again))
    assert differences(state_of(long), state_of(short)) == []


def test_a_resume_needs_the_same_data(dataset: Dataset, labeled: Dataset) -> None:
    run, classifier = new_run("run", gan_config(dataset)), new_run("classifier", classifier_config(labeled))
    for each, data in ((run, dataset), (classifier, labeled)):
        train_run(each, data)
    changed = dataset.train_images.clone()
    changed[3, 0, 0, 0] ^= 1
    for images in (dataset.train_images[:-1], changed):
        other = dataclasses.replace(dataset, train_images=images)
        message = rf"{dataset.name}: these {len(images)} training images .* differ from those the run was started with"
        with pytest.raises(ValueError, match=message):
            train_run(run, other, state_of(run))
    assert labeled.train_labels is not None
    relabeled = dataclasses.replace(labeled, train_labels=labeled.train_labels.flip(0))
    with pytest.raises(ValueError, match="and their labels differ from those the run was started with"):
        train_run(classifier, relabeled, state_of(classifier))


def test_what_is_written_when(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, steps=7, log_every=3, sample_every=4, checkpoint_every=5))
    reported: list[int] = []
    outcome = train_run(run, dataset, on_step=lambda step, measured: reported.append(step))
    assert reported == list(range(1, 8))
    assert [line["step"] for line in metrics_of(run)] == [0, 3, 6, 7]
    assert sorted(path.name for path in run.samples.iterdir()) == [f"step-{step:08d}.png" for step in (0, 4, 7)]
    assert sorted(path.name for path in run.checkpoints.glob("*.safetensors")) == [
        "step-00000005.safetensors",
        "step-00000007.safetensors",
    ]
    assert {"step": 7, **outcome.metrics} == metrics_of(run)[-1]
    assert 0 < outcome.evaluation_seconds < outcome.seconds


@pytest.mark.parametrize("kind", ["generator", "classifier"])
def test_only_what_is_measured_at_a_step_is_reported(dataset: Dataset, labeled: Dataset, kind: str) -> None:
    options = {"steps": 10, "log_every": 5, "checkpoint_every": 6}
    if kind == "generator":
        data, loss, metric = dataset, "loss/generator", "entanglement/input"
        run = new_run("run", gan_config(dataset, objective="gan", **options))
    else:
        data, loss, metric = labeled, "loss/classifier", "accuracy/test"
        run = new_run("run", classifier_config(labeled, seeds="0:2", **options))
    reported: dict[int, dict[str, float]] = {}

    def note(step: int, measured: dict[str, float]) -> None:
        reported[step] = dict(measured)

    train_run(run, data, on_step=note)
    assert list(reported) == list(range(1, 11))
    assert all(loss in measured for measured in reported.values())
    assert [step for step, measured in reported.items() if metric in measured] == [5, 10]
    for line in metrics_of(run)[1:]:
        assert {"step": line["step"], **reported[line["step"]]} == line
    run.set_steps(12)
    train_run(run, data, state_of(run), on_step=note)
    assert metric not in reported[11]


def test_a_stop_at_the_last_step_is_the_end(dataset: Dataset) -> None:
    assert train_run(new_run("run", gan_config(dataset, steps=3)), dataset, should_stop=stop_after(3)).finished


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_convolutions_and_products_share_one_precision(dataset: Dataset, precision: str) -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        train_run(new_run("run", gan_config(dataset, precision=precision, steps=1)), dataset)
        allowed = torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32
        assert allowed == (precision == "tf32", precision == "tf32")
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = before


def test_a_run_from_before_an_option_existed_resumes(labeled: Dataset) -> None:
    run = new_run("run", classifier_config(labeled))
    train_run(run, labeled, should_stop=stop_after(3))
    path = run.path / "config.json"
    content = json.loads(path.read_text())
    assert content["config"].pop("regularizer") == "snnl"
    assert content["config"].pop("adversarial_training") is None
    path.write_text(json.dumps(content))
    again = open_run(run.path, ClassifyConfig)
    assert again.config == run.config
    assert train_run(again, labeled, state_of(run)).finished


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_run_on_cuda_resumes_on_either_device(dataset: Dataset, objective: str, precision: str) -> None:
    cuda = torch.device("cuda")
    run = new_run("run", gan_config(dataset, objective=objective, precision=precision))
    train_run(run, dataset, device=cuda, should_stop=stop_after(3))
    state = state_of(run)
    assert state["step"] == 3
    for device in (CPU, cuda):
        assert train_run(open_run(run.path, Config), dataset, state, device).finished
