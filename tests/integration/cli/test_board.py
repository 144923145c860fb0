"""``snngan board`` in a process of its own: what TensorBoard serves of a run, to this machine only."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import snngan

pytestmark = pytest.mark.slow


OWN = {"0100007F", "00000000000000000000000001000000"}
"""127.0.0.1 and ::1, as Linux lists them."""


def listening(pid: int) -> set[str]:
    """Return the addresses that a process listens on, as far as Linux lists them."""
    links = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(FileNotFoundError):  # a file that the process has closed since
            links.append(os.readlink(path))
    rows = [line.split() for path in Path("/proc/net").glob("tcp*") for line in path.read_text().splitlines()[1:]]
    return {each[1].partition(":")[0] for each in rows if each[3] == "0A" and f"socket:[{each[9]}]" in links}


def read(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        content: bytes = answer.read()
    return content


@pytest.fixture
def board(finished: Path) -> Iterator[str]:
    """Return the address of a board that shows the finished run, once it has read the run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    command = [sys.executable, "-m", "snngan", "board", str(finished.parent), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            try:
                if json.loads(read(f"http://localhost:{port}/data/plugin/images/tags")):
                    break
            except (OSError, ValueError):
                pass
            time.sleep(0.2)
        assert listening(process.pid) <= OWN  # nobody else can connect
        yield f"http://localhost:{port}/data/plugin"
        assert process.poll() is None
    finally:
        process.terminate()
        assert "Traceback" not in "".join(process.communicate(timeout=30))


def test_scalars_images_and_projector(board: str) -> None:
    def load(path: str) -> Any:
        return json.loads(read(f"{board}/{path}"))

    tags = load("scalars/tags")["run"]
    assert {"entanglement/input_score", "entanglement/projection", "loss/generator"} <= tags.keys()
    points = load("scalars/scalars?run=run&tag=entanglement/input_score")
    assert [step for _, step, _ in points] == [0, 2, 4, 6]
    assert load("images/tags")["run"].keys() == {"samples/fixed_noise", "samples/real"}
    *_, newest = load("images/images?run=run&tag=samples/fixed_noise&sample=0")
    assert Image.open(io.BytesIO(read(f"{board}/images/individualImage?{newest['query']}"))).size >= (64, 64)
    embeddings = load("projector/info?run=run")["embeddings"]
    shape = {each["tensorName"]: each["tensorShape"] for each in embeddings}["latest"]
    labels = read(f"{board}/projector/metadata?run=run&name=latest").decode().split()
    assert shape == [len(labels), 10]
    assert set(labels) == {"real", "synthetic"}
    sprite = Image.open(io.BytesIO(read(f"{board}/projector/sprite_image?run=run&name=latest")))
    assert (sprite.width // 8) * (sprite.height // 8) >= len(labels)
