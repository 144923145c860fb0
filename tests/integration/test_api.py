"""The Python front door: the commands' names and defaults, and what a run gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import snngan
from snngan.api import (
    Run,
    config_like,
    create_run,
    load_run,
    load_state,
    make_trainer,
    prepare,
    prepare_resumed,
    train,
    train_classifier,
)
from snngan.cli.training import configs_of_seeds
from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import to_uint8
from snngan.training.resolve import resolve
from snngan.training.run_folder import open_run
from snngan.training.sampling import draw_latents, sample_images

TINY: dict[str, Any] = {
    "arch": "mlp", "set": ("width=16", "latent_dim=8"), "steps": 4, "batch_size": 16,
    "metrics_every": 0, "log_every": 2, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run, which must not be changed."""
    folder = tmp_path_factory.mktemp("api")
    options = {"run_dir": folder / "run", "data_dir": folder / "data", "seed": 3}
    return train("digits", objective="snnl-projected", **TINY, **options)


def test_a_run_and_what_it_gives(run: Run) -> None:
    assert repr(run) == f"RunFolder('{run.path}', snnl-projected on digits, step 4 of 4)"
    assert (run.config.steps, run.config.seed, run.config.image_shape) == (4, 3, (1, 8, 8))
    assert run.config.arch_options["width"] == 16
    again = load_run(str(run.path))
    assert (again.config, again.metrics) == (run.config, run.metrics)
    metrics = run.metrics
    assert metrics["step"] == 4
    assert 0 <= metrics["entanglement/input_score"] <= 1
    assert {"loss/generator", "loss/discriminator"} <= metrics.keys()


def test_metrics_have_short_names(run: Run) -> None:
    copied = Path("run")
    copied.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (copied / name).write_bytes((run.path / name).read_bytes())
    with open(copied / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "metrics/fid": 12.5, "loss/generator": 0.5}\n')
    metrics = load_run(copied).metrics
    assert (metrics["fid"], metrics["metrics/fid"], metrics["loss/generator"], metrics["step"]) == (12.5, 12.5, 0.5, 9)
    assert metrics["loss/discriminator"] == run.metrics["loss/discriminator"]


def test_samples_are_reproducible_images(run: Run) -> None:
    images = run.sample(7, seed=2)
    assert (images.shape, images.dtype) == ((7, 1, 8, 8), torch.uint8)
    assert torch.equal(images[:3], run.sample(3, seed=2))
    assert not torch.equal(images, run.sample(7, seed=1))
    generator = run.generator()
    assert torch.equal(images, to_uint8(sample_images(generator, draw_latents(7, 8, 2))))
    assert generator(torch.randn(2, generator.latent_dim)).shape == (2, 1, 8, 8)


def test_defaults_are_those_of_the_command() -> None:
    assert train.__defaults__ == train_classifier.__defaults__ == (TrainConfig().dataset,)


def test_a_classifier() -> None:
    run = train_classifier(
        "digits", arch="feedforward", set=["widths=8"], seeds="0:2", steps=3, batch_size=16, log_every=1, device="cpu"
    )
    assert run.path == Path("runs/0001-digits-feedforward")
    assert isinstance(run.config, ClassifyConfig)
    assert (run.config.num_classes, run.config.layers, run.config.seed_list) == (10, "fc1", (0, 1))
    assert {"accuracy/test", "seed-1/accuracy/test"} <= run.metrics.keys()
    with pytest.raises(ValueError, match="is the run of a classifier; this command needs the run of a generator"):
        run.generator()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stpes": 3}, "unknown option 'stpes'; did you mean 'steps'"),
        ({"steps": 0}, r"steps must be in \[1, inf\), got 0"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"objective": "hing"}, "unknown objective 'hing'; did you mean 'hinge'"),
        ({"seeds": "0:3"}, "seeds is an option of the command"),
        ({"batch_size": 10**6}, "batch of 1000000 is larger than the"),
        ({"dataset": "digts"}, "unknown dataset 'digts'; did you mean 'digits'"),
        ({"run_dir": "taken"}, "taken exists already and is not a run folder"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    Path("taken").mkdir()
    with pytest.raises(ValueError, match=message):
        train(**{"dataset": "digits", "device": "cpu", **options})
    assert not Path("runs").exists()
    assert not list(Path("taken").iterdir())


def test_a_folder_without_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no run folder missing"):
        load_run("missing")


def test_options_like_those_of_a_run(run: Run) -> None:
    """They are those of the run, but for what belongs to one start and what is given now."""
    config = config_like(run.path, TrainConfig, {"seed": 4, "steps": 2, "run_dir": "b", "device": "cpu"})
    saved, first = config.to_json(), run.config.to_json()
    assert {name for name in saved if saved[name] != first[name]} == {"seed", "steps"}
    data = snngan.load_dataset("digits", data_dir=run.config.data_dir)
    assert resolve(config_like(run.path, TrainConfig, {}), data) == run.config
    new = resolve(config, data)
    assert (new.seed, new.steps, new.run_dir) == (4, 2, "b")
    assert make_trainer(new, data, torch.device("cpu")).latent_dim == 8


def test_another_objective_like_that_of_a_run_has_its_own_options(run: Run) -> None:
    """And another architecture; the options of what stays hold."""
    assert run.config.objective_options["form"] == "log-odds"
    config = config_like(run.path, TrainConfig, {"objective": "wgan"})
    assert (config.objective_options, config.arch_options["width"]) == ({}, 16)
    config = config_like(run.path, TrainConfig, {"arch": "dcgan"})
    assert (config.arch_options, config.objective_options["form"]) == ({}, "log-odds")
    config = config_like(run.path, TrainConfig, {"objective": "snnl-projected", "set": ("width=24", "form=literal")})
    data = snngan.load_dataset("digits", data_dir=run.config.data_dir)
    resolved = resolve(config, data)
    assert (resolved.arch_options["width"], resolved.arch_options["latent_dim"]) == (24, 8)
    assert resolved.objective_options["form"] == "literal"


def test_seeds_given_now_replace_those_of_the_run(run: Run) -> None:
    assert run.config.seed == 3
    config = config_like(run.path, TrainConfig, {"seeds": "0:2"})
    assert [each.seed for each in configs_of_seeds(config)] == [0, 1]
    assert config_like(run.path, TrainConfig, {"steps": 2}).seed_list == (3,)


def test_a_classifier_like_another() -> None:
    options = {"set": ("widths=8-4",), "steps": 1, "batch_size": 16, "device": "cpu"}
    run = train_classifier("digits", arch="feedforward", seeds="0:2", **options)
    assert (run.config.layers, run.config.arch_options) == ("fc1,fc2", {"widths": "8-4"})
    config = config_like(run.path, ClassifyConfig, {"seed": 7})
    assert (config.seed_list, config.layers) == ((7,), "fc1,fc2")
    data = snngan.load_dataset("digits")
    config = config_like(run.path, ClassifyConfig, {"arch": "cnn-small", "set": ("width=4",)})
    trainer = make_trainer(resolve(config, data), data, torch.device("cpu"))
    assert trainer.config.seed_list == (0, 1)
    assert "conv1" in trainer.config.layer_names


def test_other_data_like_those_of_a_run(run: Run) -> None:
    images = torch.randint(0, 256, (80, 3, 16, 16), dtype=torch.uint8)
    data = snngan.data.Dataset("colors", images[:64], None, images[64:], None)
    config = resolve(config_like(run.path, TrainConfig, {"dataset": "colors"}), data)
    assert config.image_shape == (3, 16, 16)
    assert config.data_digest == data.digest() != run.config.data_digest
    make_trainer(config, data, torch.device("cpu")).step(1)


def test_a_trainer_like_a_run_of_another_kind_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="is the run of a generator; this command needs the run of a classifier"):
        config_like(run.path, ClassifyConfig, {})
    with pytest.raises(ValueError, match="unknown option 'stpes'"):
        config_like(run.path, TrainConfig, {"stpes": 3})


def test_several_seeds_of_a_generator_are_several_runs() -> None:
    config = TrainConfig(steps=3)
    assert configs_of_seeds(config) == [config]
    found = configs_of_seeds(TrainConfig(seeds="2,5", run_dir="a", steps=3))
    assert [(each.seed, each.seeds, each.run_dir, each.steps) for each in found] == [
        (2, None, "a/seed-2", 3), (5, None, "a/seed-5", 3)
    ]  # fmt: skip
    assert [each.run_dir for each in configs_of_seeds(TrainConfig(seeds="0:3"))] == [None] * 3


def test_a_resume_on_other_data_is_refused(run: Run) -> None:
    folder = open_run(run.path, Config)
    state = load_state(folder)
    with pytest.raises(ValueError, match="differ from those the run was started with"):
        prepare_resumed(folder, state, torch.device("cpu"), dataset="gaussians")
    assert prepare_resumed(folder, state, torch.device("cpu")).steps_done == 4


def test_a_run_without_checkpoints_starts_again(tmp_path: Path) -> None:
    trainer = prepare(TrainConfig(dataset="digits", run_dir="run", **TINY), torch.device("cpu"))
    folder = create_run(trainer)
    folder.log(0, {"entanglement/input": 0.5})
    assert load_state(folder) is None
    again = prepare_resumed(folder, None, torch.device("cpu"))
    assert (again.steps_done, folder.last_logged()) == (0, -1)
    folder.log(2000, {"entanglement/input": 0.5})
    with pytest.raises(ValueError, match="the run stopped before it saved one; train again"):
        load_state(folder)
