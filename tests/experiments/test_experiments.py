"""The smoke preset of each experiment runs in seconds, writes its results, and continues after an interruption."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from PIL import Image

from snngan.cli import main
from snngan.data.datasets import load_dataset
from snngan.experiments import EXPERIMENTS, FORMER_NAMES, PRESETS, ExperimentContext, make_experiment, run_experiment
from snngan.experiments.gan_entanglement import CORRELATIONS, describe_correlations, rank_correlations
from snngan.experiments.runs import train_generator
from snngan.experiments.tables import compare_logs
from snngan.training.checkpoint import save_checkpoint
from snngan.training.divergence import DivergedError


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_smoke(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    context = ExperimentContext(tmp_path / "out", str(tmp_path / "data"), torch.device("cpu"), lines.append)
    result = run_experiment(name, "smoke", context, "the command")
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
    num_lines = len(lines)
    again = run_experiment(name, "smoke", context, "the command")
    assert again.numbers == result.numbers
    assert not [line for line in lines[num_lines:] if " steps" in line]  # nothing is trained again


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_every_preset_is_valid_and_every_option_is_described(name: str) -> None:
    kind = EXPERIMENTS[name]
    assert {"cpu", "paper"} <= set(kind.presets) <= set(PRESETS)
    assert kind.source
    assert kind.summary
    for preset in PRESETS:
        make_experiment(name, preset)
    assert all(field.metadata["help"] for field in dataclasses.fields(kind))


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
        ("experiment list", 0, "gan-entanglement"),
        ("experiment run pixel-generator --dry-run", 0, "dry run: nothing was written"),
        ("experiment run pixle-generator", 2, "unknown experiment 'pixle-generator'; did you mean 'pixel-generator'"),
        ("experiment run pixel-generator --dataset kmnist --dry-run", 0, "dataset='kmnist'"),
        (
            "experiment run alpha-search --set workers=3 --set storage=x:// --dry-run",
            0,
            "workers=3  number of processes",
        ),
        (
            "experiment run alpha-search --set worker=3",
            2,
            "unknown setting of alpha-search 'worker'; did",
        ),
        (
            "experiment run gan-entanglement --set seeds=4,5 --set objectives=gan --set options=width=8,z=9 --dry-run",
            0,
            "options=('width=8', 'z=9')  options of objective and networks",
        ),
        ("experiment run gan-entanglement --set seeds=4,b", 2, "seeds must be whole numbers with commas between, got"),
        (
            "experiment run gan-entanglement --set objectives=",
            2,
            "objectives must be values with commas between, got ''",
        ),
        ("experiment run overfitting --set seeds=0", 2, "seeds must be in [1, inf), got 0"),
        ("experiment run overfitting --set steps=0 --dry-run", 2, "steps must be in [1, inf), got 0"),
        ("experiment run alpha-search --set workers=0", 2, "workers must be in [1, inf), got 0"),
        ("experiment run alpha-search --set workers=many", 2, "workers must be a whole number, got 'many'"),
        ("experiment run alpha-search --set workers", 2, "--set must be NAME=VALUE, got 'workers'; alpha-search has"),
        ("experiment run dknn-calibration --regularizer triplet --dry-run", 0, "regularizer=('triplet',)"),
        ("experiment run dknn-calibration --regularizer tripel", 2, "unknown regularizer 'tripel'; did you mean"),
        ("experiment run dknn-calibration --set seeds=1", 2, "seeds must be in [2, inf), got 1"),
        ("experiment run dknn-calibration --set epsilons=0.1,3", 2, "epsilon must be above 0 and at most 1"),
        ("experiment run outliers --regularizer snnl", 2, "unknown setting of outliers 'regularizer'"),
        ("experiment run outliers --set outliers=mnits", 2, "unknown dataset 'mnits'; did you mean 'mnist'"),
        ("experiment run adversarial-training --set adversarial_training=pgd", 2, "an attack must be NAME:EPSILON"),
        ("experiment run hidden-activations --set attack=bmi:1", 2, "unknown attack 'bmi'; did you mean 'bim'"),
        (
            "experiment run template-models --set layer_reduction=max",
            2,
            "layer_reduction must be one or more of sum, mean, min, got max",
        ),
        ("experiment run template-models --set archs=cnn,resnet17", 2, "unknown classifier 'resnet17'; did you mean"),
        ("experiment run template-models --set temperature=hot", 2, "temperature must be a multiple of the mean"),
        ("experiment run temperature-and-factor --set arch=mlp", 2, "unknown classifier 'mlp'"),
        ("experiment run latent-code --set widths=5-0", 2, "widths must be positive integers such as 500-500-2000"),
        ("experiment run self-supervised-blobs --set spreads=1,0", 2, "spreads must be above 0"),
        ("experiment run triplet-comparison --set num_classes=1", 2, "num_classes must be in [2, 10], got 1"),
        ("experiment run pixel-generator --preset huge", 2, "'huge' is not one of"),
    ],
)
def test_the_command(command: str, status: int, words: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(command.split())
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
    lines = describe_correlations(numbers, dict.fromkeys(CORRELATIONS, -0.9))
    assert (
        "follows FID (-0.7 or lower) in 1 of 2 runs; across runs, at the last step, it follows it (-0.90)" in (lines[2])
    )
    assert "does not follow it (0.10)" in describe_correlations(numbers, dict.fromkeys(CORRELATIONS, 0.1))[2]


def smoke(folder: Path, name: str = "pixel-generator", dataset: str | None = None) -> Any:
    context = ExperimentContext(folder, str(folder.parent / "data"), torch.device("cpu"), lambda line: None)
    return run_experiment(name, "smoke", context, "the command", [f"dataset={dataset}"] if dataset else [])


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


def test_a_folder_that_is_not_a_run_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "out" / "runs" / "chance-capped-seed0"
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        smoke(tmp_path / "out")
    assert (path / "notes.txt").read_text() == "precious"


def test_a_refused_experiment_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset"):
        smoke(tmp_path / "out", dataset="nosuch")
    assert not (tmp_path / "out").exists()


def test_paired_differences_and_their_p_value() -> None:
    """Differences 2, 3, 4, 3: mean 3, deviation sqrt(2/3), so t = 3 / sqrt(2/3/4) at 3 degrees of freedom."""
    sides = {"baseline": [1.0, 2.0, 3.0, 10.0], "entangled": [3.0, 5.0, 7.0, 13.0]}
    logs = {name: [{"value": ([1], [value])} for value in values] for name, values in sides.items()}
    found = compare_logs(logs, lambda log: log["value"][1][-1])
    assert found["difference"]["values"] == [2, 3, 4, 3]
    assert (found["entangled"]["best"], found["baseline"]["mean"]) == (13, 4)
    assert found["p_value"] == pytest.approx(2 * scipy.stats.t.sf(3 / (2 / 3 / 4) ** 0.5, 3))


def test_runs_of_other_options_are_refused(tmp_path: Path) -> None:
    smoke(tmp_path / "out")
    with pytest.raises(ValueError, match="holds a different run than this experiment's"):
        smoke(tmp_path / "out", dataset="mnist-5k")


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


def test_a_run_continued_in_another_environment_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    context = ExperimentContext(tmp_path / "out", None, torch.device("cpu"), lines.append)
    digits = load_dataset("digits", keep=False)
    options: dict[str, Any] = {
        "dataset": "digits", "arch": "mlp", "set": ("width=16",), "objective": "gan", "batch_size": 16, "steps": 4,
        "checkpoint_every": 2,
    }  # fmt: skip
    run = train_generator("run", digits, context, **options)
    path = run.path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"environment": content["environment"] | {"threads": 99}}))
    train_generator("run", digits, context, **options)
    assert lines == ["run: 4 steps"]
    (run.checkpoints / "step-00000004.pt").unlink()
    train_generator("run", digits, context, **options)
    assert lines[1] == "run: 4 steps from step 2"
    assert lines[2].startswith("run: started with threads 99, continued with ")
    for each in run.checkpoints.glob("*.pt"):
        each.unlink()
    train_generator("run", digits, context, **options)
    assert lines[3:] == ["run: 4 steps"]
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("stages", ["stages=0,6", "stages=3,9"])
def test_stages_out_of_range_are_refused(tmp_path: Path, stages: str) -> None:
    context = ExperimentContext(tmp_path / "out", None, torch.device("cpu"), pytest.fail)
    with pytest.raises(ValueError, match="stages must be steps from 1 to 6, got"):
        run_experiment("projected-generator", "smoke", context, "the command", [stages])
    assert not (tmp_path / "out").exists()


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    context = ExperimentContext(tmp_path / "out", str(tmp_path / "data"), torch.device("cpu"), lambda line: None)
    found = run_experiment("projected-generator", "smoke", context, "the command", ["stages=2,5"])
    assert {path.name for path in found.plots} >= {"log-odds-000002.png", "log-odds-000005.png"}
    (tmp_path / "out" / "runs" / "gan-seed0" / "stage-00000005.npz").unlink()
    with pytest.raises(ValueError, match=r"gan-seed0 has no samples of step 5: remove it, and it is trained again$"):
        run_experiment("projected-generator", "smoke", context, "the command", ["stages=2,5"])


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{}", "PK"])
def test_damaged_clusters_are_named(tmp_path: Path, content: str) -> None:
    context = ExperimentContext(tmp_path / "out", str(tmp_path / "data"), torch.device("cpu"), lambda line: None)
    run_experiment("self-supervised-blobs", "smoke", context, "the command")
    path = min((tmp_path / "out" / "clusters").iterdir())
    path.write_text(content)
    with pytest.raises(ValueError, match=path.name):
        run_experiment("self-supervised-blobs", "smoke", context, "the command")


def test_a_run_that_diverges_is_left_out_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(name: str, *rest: Any, **options: Any) -> Any:
        if name == "gan-seed1":
            raise DivergedError("step 3: the generator's loss is nan")
        return train_generator(name, *rest, **options)

    monkeypatch.setattr("snngan.experiments.generators.train_generator", diverge)
    result = smoke(tmp_path / "out", "gan-entanglement")
    assert result.numbers["diverged"] == ["gan-seed1: step 3: the generator's loss is nan"]
    assert len(result.numbers["objectives"]["gan"]["FID"]["values"]) == 1
    assert "Diverged and left out: gan-seed1" in "\n".join(result.text)
