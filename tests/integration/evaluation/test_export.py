"""Exported generators give the images of the run, in ONNX and torch.export; the model card says what they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.runs import gan_config, new_run, train_run
from torch.testing import assert_close

import snngan
from snngan.config import TrainConfig
from snngan.data import Dataset
from snngan.evaluation.export import export_generator
from snngan.training.run_folder import RunFolder


def make_run(data: Dataset, *settings: str, **options: Any) -> RunFolder[TrainConfig]:
    config = gan_config(data, objective="gan", set=("width=4", "latent_dim=8", *settings), **options)
    run = new_run("run", config)
    train_run(run, data)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "conditional"), [("mlp", True), ("mlp", False), ("dcgan", True), ("sngan", False)])
def test_programs_give_the_same_images(labeled: Dataset, arch: str, conditional: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = make_run(labeled, arch=arch, conditional=conditional)
    said = export_generator(run, Path("g.onnx"), pytest.fail)
    assert said.startswith("generator of step 6; 1000 images by onnxruntime differ by ")
    export_generator(run, Path("g.pt2"), pytest.fail)
    generator: Any = snngan.load_generator(run.path)
    session = onnxruntime.InferenceSession("g.onnx")
    program = torch.export.load("g.pt2").module()
    for count in (1, 7):  # it was traced for 2
        inputs = (torch.randn(count, 8), torch.arange(count) % 3)[: 2 if conditional else 1]
        names = ("latents", "labels")
        (found,) = session.run(["images"], {name: each.numpy() for name, each in zip(names, inputs, strict=False)})
        with torch.no_grad():
            expected = generator(*inputs)
            assert_close(program(*inputs), expected)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_missing_packages_are_named(labeled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"need the package onnxscript: pip install 'snngan\[onnx\]'"):
        export_generator(make_run(labeled), Path("g.onnx"), pytest.fail)
    assert not Path("g.onnx").exists()


def test_a_folder_has_a_model_card(labeled: Dataset) -> None:
    run = make_run(labeled, conditional=True)
    export_generator(run, Path("model"), pytest.fail)
    assert "Not measured" in Path("model/README.md").read_text()
    snngan.evaluate(run.path, labeled.test_images, features="pixels", metrics=["fid", "kid"], count=40)
    export_generator(run, Path("model"), pytest.fail)
    card = Path("model/README.md").read_text()
    assert card.startswith("---\nlibrary_name: snngan\n")
    assert "# gan on rows" in card and "of the classes 0, 1, 2." in card
    assert "40 images against 40 of" in card
    assert re.search(r"\| kid \| [-0-9.e+]+ \| unbiased squared MMD", card)
    code = card.split("```python\n")[1].split("```")[0].replace("generator.safetensors", "model/generator.safetensors")
    found: dict[str, Any] = {}
    exec(code, found)  # as it is printed
    assert found["images"].shape == (16, 1, 8, 8)
    assert Path("model/samples.png").stat().st_size > 100
