"""``snngan board`` listens on this machine's own address only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import snngan

OWN = {"0100007F", "00000000000000000000000001000000"}
"""127.0.0.1 and ::1, as Linux lists them."""


def listening(pid: int) -> set[str]:
    """Return the addresses that a process listens on."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {each[1].partition(":")[0] for each in lines if each[3] == "0A" and f"socket:[{each[9]}]" in links}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's list of sockets")
def test_board_listens_on_localhost_only(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    command = [sys.executable, "-m", "snngan", "board", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (found := listening(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert found <= OWN
    finally:
        process.kill()
        process.wait()
