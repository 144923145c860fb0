"""The smoke preset of each experiment runs in seconds, writes its results, and continues after an interruption."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from PIL import Image

from snngan.checkpoint import save_checkpoint
from snngan.cli import main
from snngan.experiments import EXPERIMENTS, FORMER_NAMES, PRESETS, ExperimentContext, make_experiment, run_experiment
from snngan.experiments.generators import (
    CORRELATIONS,
    GeneratorExperiment,
    describe_correlations,
    rank_correlations,
)
from snngan.experiments.tables import compare_logs
from snngan.training.divergence import DivergedError


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten t-SNE."""
    from sklearn import manifold

    monkeypatch.setattr(manifold, "TSNE", partial(manifold.TSNE, max_iter=250))


@pytest.fixture(autouse=True, scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of data sets and trained features that the experiments share."""
    global DATA
    DATA = tmp_path_factory.mktemp("data")
    return DATA


def smoke(folder: Path, name: str = "pixel-generator", *settings: str, lines: list[str] | None = None) -> Any:
    notify = ([] if lines is None else lines).append
    context = ExperimentContext(folder, str(DATA), torch.device("cpu"), notify)
    return run_experiment(name, "smoke", context, "the command", settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_smoke(name: str, tmp_path: Path) -> None:
    result = smoke(tmp_path / "out", name)
    content = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert content["experiment"] == name
    assert content["numbers"] == json.loads(json.dumps(result.numbers))
    text = (tmp_path / "out" / "result.md").read_text()
    assert "the command" in text
    assert "nan" not in text.lower()
    assert result.plots
    for path in result.plots:
        assert f"({path.name})" in text
        with Image.open(path) as image:
            assert min(image.size) >= 100
    lines: list[str] = []
    assert smoke(tmp_path / "out", name, lines=lines).numbers == result.numbers
    assert not [line for line in lines if " steps" in line]  # nothing is trained again


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_every_preset_is_valid_and_every_option_is_described(name: str) -> None:
    assert EXPERIMENTS[name].cpu
    assert EXPERIMENTS[name].paper
    assert len(EXPERIMENTS[name].summary()) > 40
    for preset in PRESETS:
        assert all(field.metadata["help"] for field in dataclasses.fields(make_experiment(name, preset)))


def test_options_of_version_0_1_are_known_by_their_former_names() -> None:
    experiment: Any = make_experiment("adversarial-training", "cpu", ["judge=pgd:0.2:40", "every=7"])
    assert (experiment.evaluation_attack, experiment.log_every) == ("pgd:0.2:40", 7)
    experiment = make_experiment("gan-entanglement", "cpu", ["every=7"])
    assert experiment.metrics_every == 7
    options = {field.name for name in EXPERIMENTS.names() for field in dataclasses.fields(EXPERIMENTS[name])}
    assert {new for names in FORMER_NAMES.values() for new in names} <= options


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("list", 0, "gan-entanglement"),
        ("run pixel-generator --dry-run", 0, "dry run: nothing was written"),
        ("run pixle-generator", 2, "unknown experiment 'pixle-generator'; did you mean 'pixel-generator'"),
        ("run pixel-generator --preset huge", 2, "'huge' is not one of"),
        ("run gan-entanglement --set seeds=4,5 --set options=width=8,z=9 --dry-run", 0, "options=('width=8', 'z=9')  "),
        ("run alpha-search --set workers=3 --set storage=x:// --dry-run", 0, "workers=3  number of processes"),
        ("run alpha-search --set worker=3", 2, "unknown setting of alpha-search 'worker'; did"),
        ("run alpha-search --set workers", 2, "--set must be NAME=VALUE, got 'workers'; alpha-search has"),
        ("run overfitting --set seeds=0 --dry-run", 2, "seeds must be in [1, inf), got 0"),
        ("run dknn-calibration --regularizer triplet --dry-run", 0, "regularizer=('triplet',)"),
        ("run dknn-calibration --regularizer tripel", 2, "unknown regularizer 'tripel'; did you mean"),
        ("run dknn-calibration --set epsilons=0.1,3", 2, "epsilon must be above 0 and at most 1"),
        ("run outliers --set outliers=mnits", 2, "unknown dataset 'mnits'; did you mean 'mnist'"),
        ("run adversarial-training --set adversarial_training=pgd", 2, "an attack must be NAME:EPSILON"),
        ("run hidden-activations --set attack=bmi:1", 2, "unknown attack 'bmi'; did you mean 'bim'"),
        ("run template-models --set layer_reduction=max", 2, "unknown value for layer_reduction 'max'"),
        ("run temperature-and-factor --set arch=mlp", 2, "unknown classifier 'mlp'"),
        ("run latent-code --set widths=5-0", 2, "widths must be positive integers such as 500-500-2000"),
        ("run self-supervised-blobs --set spreads=1,0", 2, "spreads must be in [0.001, inf), got 0"),
        ("run projected-generator --set stages=3,9", 2, "stages must be steps from 1 to 6, got (3, 9)"),
    ],
)
def test_the_command(command: str, status: int, words: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["experiment", *command.split()])
    assert left.value.code == status
    assert words in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


def log(scores: list[float], fids: list[float]) -> dict[str, tuple[list[int], list[float]]]:
    """Return a log with both scores at twice as many steps as FID."""
    twice = [value for score in scores for value in (0.5, score)]
    steps = list(range(1, len(twice) + 1))
    return dict.fromkeys(CORRELATIONS.values(), (steps, twice)) | {"metrics/fid": (steps[1::2], fids)}


def test_rank_correlations_use_the_steps_that_have_both_score_and_fid() -> None:
    rising, falling, flat = [0.1, 0.2, 0.3, 0.4], [40.0, 30.0, 20.0, 10.0], [0.0, 0.0, 0.0, 0.0]
    for scores, correlation in ((rising, -1), (rising[::-1], 1), (flat, None)):
        found = rank_correlations([log(scores, falling), log(scores, falling)])
        for title in CORRELATIONS:
            assert found[title] is None if correlation is None else found[title]["values"] == [correlation] * 2
    numbers = {"gan": rank_correlations([log(rising, falling), log(rising[::-1], falling)])}
    line = describe_correlations(numbers, dict.fromkeys(CORRELATIONS, -0.9))[2]
    assert "follows FID (-0.7 or lower) in 1 of 2 runs; across runs, at the last step, it follows it (-0.90)" in line
    assert "does not follow it (0.10)" in describe_correlations(numbers, dict.fromkeys(CORRELATIONS, 0.1))[2]


@pytest.mark.parametrize("checkpoints", [0, 3])
def test_an_interrupted_experiment_has_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: int
) -> None:
    """The interruption is within a run, before or after its first checkpoint."""
    unbroken = smoke(tmp_path / "unbroken")
    saved = 0

    def stop(*arguments: Any) -> Any:
        nonlocal saved
        if saved == checkpoints:
            raise KeyboardInterrupt
        saved += 1
        return save_checkpoint(*arguments)

    monkeypatch.setattr("snngan.training.run_folder.save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        smoke(tmp_path / "broken")
    monkeypatch.undo()
    assert smoke(tmp_path / "broken").numbers == unbroken.numbers


def test_a_refused_experiment_leaves_no_folder_and_other_options_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset"):
        smoke(tmp_path / "out", "pixel-generator", "dataset=nosuch")
    assert not (tmp_path / "out").exists()
    smoke(tmp_path / "out")
    with pytest.raises(ValueError, match="holds a different run than this experiment's"):
        smoke(tmp_path / "out", "pixel-generator", "batch_size=9")
    with pytest.raises(ValueError, match="exists already: give another --out, or --force"):
        smoke(tmp_path / "out", "toy-gaussian")


def test_paired_differences_and_their_p_value() -> None:
    """Differences 2, 3, 4, 3: mean 3, deviation sqrt(2/3), so t = 3 / sqrt(2/3/4) at 3 degrees of freedom."""
    sides = {"baseline": [1.0, 2.0, 3.0, 10.0], "entangled": [3.0, 5.0, 7.0, 13.0]}
    logs = {name: [{"tag": ([1], [value])} for value in values] for name, values in sides.items()}
    found = compare_logs(logs, "tag")
    assert found["difference"]["values"] == [2, 3, 4, 3]
    assert (found["entangled"]["best"], found["baseline"]["mean"]) == (13, 4)
    assert found["p_value"] == pytest.approx(2 * scipy.stats.t.sf(3 / (2 / 3 / 4) ** 0.5, 3))


def test_the_result_names_the_environment_in_which_runs_were_trained(tmp_path: Path) -> None:
    smoke(tmp_path / "out")
    first = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert first["runs"] == [first["environment"]]
    for path in (tmp_path / "out").rglob("config.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"environment": content["environment"] | {"torch": "2.0.0"}}))
    smoke(tmp_path / "out")
    again = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert again["environment"] == first["environment"]
    assert [each["torch"] for each in again["runs"]] == ["2.0.0"]
    assert "torch 2.0.0, cpu" in (tmp_path / "out" / "result.md").read_text()


def test_a_run_that_diverges_is_left_out_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = GeneratorExperiment.train

    def diverge(self: Any, name: str, data: Any, context: Any, seed: int, **options: Any) -> Any:
        if (name, seed) == ("gan", 1):
            raise DivergedError("step 3: the generator's loss is nan")
        return train(self, name, data, context, seed, **options)

    monkeypatch.setattr(GeneratorExperiment, "train", diverge)
    result = smoke(tmp_path / "out", "gan-entanglement")
    assert result.numbers["diverged"] == ["gan-seed1: step 3: the generator's loss is nan"]
    assert len(result.numbers["objectives"]["gan"]["FID"]["values"]) == 1
    assert "Diverged and left out: gan-seed1" in "\n".join(result.text)
