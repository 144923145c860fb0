"""Files of every kind with a pickled payload, or other code that could run: refused, and not run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reliability.command_lines import GAN, outcome
from reliability.guard import ForbiddenError, guarded
from torch import nn

from snngan.data.datasets import load_dataset
from snngan.evaluation.feature_classifier import features_path, load_or_train_features
from snngan.evaluation.features import ExportedNetwork, Inception
from snngan.robustness.dknn import DkNN
from snngan.tensors import PickledCodeError, read_tensors
from snngan.training.checkpoint import load_newest, load_tensors, save_tensors


class Payload:
    """Creates the folder ``ran`` when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("ran").exists()


def test_the_payload_runs_and_the_guard_stops_it(tmp_path: Path) -> None:
    with pytest.raises(ForbiddenError, match=r"pickle\.find_class"), guarded(tmp_path):
        pickle.loads(pickle.dumps(Payload()))
    pickle.loads(pickle.dumps(Payload()))
    Path("ran").rmdir()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def refused(work: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match), guarded(Path.cwd()):
        work()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run whose newest checkpoint holds the payload in place of its generator."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", train_images=images[:30], test_images=images[30:])
    status, said = outcome(f"{GAN} --run-dir run".split(), tmp_path)
    assert status == 0, said
    path = tmp_path / "run" / "checkpoints" / "step-00000002.pt"
    state = load_newest(path.parent)
    state["networks"]["ema_generator"] = Payload()
    path.write_bytes(saved(state))
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path / "run"


@pytest.mark.parametrize(
    "command",
    [
        "resume run --steps 9",
        "sample run --out new.png",
        "interpolate run --out new.png",
        "evaluate run --features pixels",
        "compare run npz:few.npz",
    ],
)
def test_payload_in_a_checkpoint(run: Path, tmp_path: Path, command: str) -> None:
    status, said = outcome([*command.split(), "--device", "cpu"], tmp_path)
    assert status == 2
    assert said.splitlines()[-1].startswith("Error: run/checkpoints/step-00000002.pt holds pickled code (")
    assert "mkdir" in said


def test_payload_in_cached_tensors(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    save_tensors(path, {"mean": torch.zeros(3)})
    assert load_tensors(path)["mean"].shape == (3,)
    path.write_bytes(saved({"mean": torch.zeros(3), "features": Payload()}))
    refused(lambda: load_tensors(path), "mkdir")


def test_payload_in_trained_features(tmp_path: Path) -> None:
    digits = load_dataset("digits", keep=False)
    features_path(digits, tmp_path).write_bytes(saved({"logits.weight": Payload()}))
    refused(lambda: load_or_train_features(digits, tmp_path), "does not hold such a classifier")


def test_payload_in_inceptions_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"Conv2d_1a_3x3.conv.weight": Payload()}))
    refused(lambda: Inception(path), "does not hold weights that can be read safely")
    torch.save({"a": Payload()}, path, _use_new_zipfile_serialization=False)
    refused(lambda: Inception(path), "does not hold weights that can be read safely")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the entries of an exported network."""
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
    sizes = ({0: torch.export.Dim("batch", min=1, max=500)},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 6, 6),), dynamic_shapes=sizes), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(content: bytes, key: str, value: Any) -> bytes:
    """Return a JSON document in which every value of ``key`` is another, or which has it at its top."""

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: value if name == key else walk(each) for name, each in part.items()}
        return [walk(each) for each in part] if isinstance(part, list) else part

    return json.dumps({key: value, **walk(json.loads(content))}).encode()


RUNS = "__import__('os').mkdir('ran')"
FROM_FILE = "torch.ops.aten.from_file.default"
CHANGES: dict[str, Callable[[dict[str, bytes], str], None]] = {
    "weights marked as pickles": lambda parts, top: parts.update(
        {name: changed(part, "use_pickle", True) for name, part in parts.items() if "/data/" in name and "json" in name}
    ),
    "an example of its input": lambda parts, top: parts.update(
        {f"{top}/data/sample_inputs/model.pt": saved(Payload())}
    ),
    "weights in one file": lambda parts, top: parts.update({f"{top}/data/weights/model.pt": saved({"a": Payload()})}),
    "a size that is a formula": lambda parts, top: parts.update(
        {f"{top}/models/model.json": changed(parts[f"{top}/models/model.json"], "expr_str", RUNS)}
    ),
    "a size that takes forever": lambda parts, top: parts.update(
        {f"{top}/models/model.json": changed(parts[f"{top}/models/model.json"], "expr_str", "9**9**9**9")}
    ),
    "an operator that maps files": lambda parts, top: parts.update(
        {f"{top}/models/model.json": changed(parts[f"{top}/models/model.json"], "target", FROM_FILE)}
    ),
    "a guard": lambda parts, top: parts.update(
        {f"{top}/models/model.json": changed(parts[f"{top}/models/model.json"], "guards_code", [RUNS])}
    ),
    "a compiled library": lambda parts, top: parts.update({f"{top}/data/aotinductor/model/x.so": b"\x7fELF"}),
    "an object": lambda parts, top: parts.update({f"{top}/data/constants/opaque_obj_0": pickle.dumps(Payload())}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_payload_in_an_exported_extractor(exported: dict[str, bytes], tmp_path: Path, change: str) -> None:
    parts, path = dict(exported), tmp_path / "net.pt2"
    CHANGES[change](parts, next(iter(parts)).partition("/")[0])
    if torch.__version__.startswith("2.8.") and change == "weights marked as pickles":
        pytest.skip("torch 2.8 keeps all weights in one pickle")
    assert parts != exported
    for content, message in ((parts, "net.pt2 is not a network"), (exported, "")):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in content.items():
                archive.writestr(name, part)
        if message:
            refused(lambda: ExportedNetwork(path), message)
        else:
            ExportedNetwork(path)


def test_two_readers_of_one_archive(exported: dict[str, bytes], tmp_path: Path) -> None:
    """zipfile and torch find different entries in this archive: what is checked must be what is used."""

    def built(pickled: bytes) -> tuple[bytes, bytes, bytes]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, part in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}.items():
                archive.writestr(f"archive/{name}", part)
        content = buffer.getvalue()
        end = content.rfind(b"PK\5\6")
        size, offset = struct.unpack("<II", content[end + 12 : end + 20])
        return content[:offset], content[offset : offset + size], content[end:]

    evil, harmless = built(pickle.dumps(Payload(), protocol=2)), built(b"\x80\x02).")
    shift, entries = len(evil[1]) + len(harmless[0]), harmless[1]
    at = 0
    while at < len(entries):
        name, extra, comment = struct.unpack("<HHH", entries[at + 28 : at + 34])
        offset = struct.unpack("<I", entries[at + 42 : at + 46])[0] + len(evil[0]) + len(evil[1]) - shift
        entries = entries[: at + 42] + struct.pack("<I", offset) + entries[at + 46 :]
        at += 46 + name + extra + comment
    end = evil[2][:12] + struct.pack("<II", len(evil[1]), len(evil[0])) + evil[2][20:]
    both = evil[0] + evil[1] + harmless[0] + entries + end
    assert read_tensors(both) == ()
    with pytest.raises(Exception, match="mkdir"):
        torch.load(io.BytesIO(both), weights_only=True)
    (inputs,) = (name for name in exported if "sample_inputs" in name)
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for name, part in exported.items():
            archive.writestr(name, both if name == inputs else part)
    with guarded(tmp_path):
        ExportedNetwork(tmp_path / "net.pt2")


SCRIPTS = (
    "torch.save(x, 'ran')",
    "ops.aten.save(x, 'ran')",
    "(torch).save(x, 'ran')",
    "t = torch\n    t.save(x, 'ran')",
    "getattr(torch, \"save\")(x, 'ran')",
    "getattr(torch, \"\\x73ave\")(x, 'ran')",
    "torch.from_file('few.npz', False, 4)",
    "ops.image.write_file('ran', x)",
)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("top", ["code", "CODE"])
@pytest.mark.parametrize("line", SCRIPTS)
def test_payload_in_a_scripted_extractor(tmp_path: Path, line: str, top: str) -> None:
    path = tmp_path / "net.pt"
    scripted = torch.jit.script(nn.ReLU())  # type: ignore[no-untyped-call]
    scripted.save(str(path))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            new = part.replace(b"    return", f"    {line}\n    return".encode(), 1) if name.endswith(".py") else part
            archive.writestr(name.replace("/code/", f"/{top}/"), new)
    refused(lambda: ExportedNetwork(path), r"its code/\S+ calls ")


@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_payload_in_an_npz_file(tmp_path: Path, key: str) -> None:
    arrays = {"train_images": np.zeros((9, 1, 8, 8), np.uint8), "train_labels": np.zeros(9, np.int64)}
    np.savez(tmp_path / "set.npz", **(arrays | {key: np.array([Payload()] * 9, dtype=object)}), allow_pickle=True)
    refused(lambda: load_dataset("npz:set.npz"), f"set.npz: {key} cannot be read .it holds Python objects")


@pytest.mark.parametrize("key", ["labels", "calibration", "layers/a", "settings", "more"])
def test_payload_in_a_saved_dknn(tmp_path: Path, key: str) -> None:
    dknn, path = DkNN({"a": torch.rand(9, 2)}, torch.arange(9) % 2, num_neighbors=3), tmp_path / "dknn.npz"
    dknn.calibrate({"a": torch.rand(9, 2)}, torch.arange(9) % 2)
    dknn.save(path)
    assert torch.equal(DkNN.load(path).calibration, dknn.calibration)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | {key: np.array([Payload()] * 9, dtype=object)}), allow_pickle=True)
    refused(lambda: DkNN.load(path), "dknn.npz is not a saved DkNN: it holds Python objects")


def test_payload_in_the_files_of_cifar(tmp_path: Path) -> None:
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (place / name).write_bytes(pickle.dumps(Payload()))
    refused(lambda: load_dataset("cifar10", data_dir=tmp_path), "the files of cifar10 in .* cannot be read")


@pytest.mark.parametrize(
    "name", ["os system", "builtins eval", "torch load", "torch.hub load", "torch._utils _rebuild_xla"]
)
def test_only_functions_that_rebuild_tensors_are_unpickled(name: str) -> None:
    module, _, function = name.partition(" ")
    pickled = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"."
    with pytest.raises(PickledCodeError, match=name):
        read_tensors(pickled)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(PickledCodeError, match=name):
        read_tensors(buffer.getvalue())
