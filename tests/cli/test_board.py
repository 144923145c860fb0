"""``snngan board`` in a real browser: curves, sample grids and the projector.

Screenshots are saved in the folder named by the environment variable SNNGAN_SCREENSHOTS, if it is set.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snngan
from snngan.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-unsafe-swiftshader --window-size=1400,1000"
)
TEXT = """
const found = [];
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE && !["STYLE", "SCRIPT"].includes(node.parentNode.nodeName)) {
    const text = node.textContent.trim();
    if (text) found.push(text);
  }
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return found.join("\\n");
"""
"""JavaScript that returns the text of a page, including its web components."""
ELEMENTS = """
const found = [];
const walk = node => {
  if (node.matches && node.matches(arguments[0])) found.push(node);
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return found;
"""
"""JavaScript that returns the elements of a page that match a selector, including those in web components."""
LOADED = "return performance.getEntriesByType('resource').map(each => [each.name, each.responseStatus])"
STEPS = 300
"""Enough for the samples to resemble digits, so that the entanglement rises from 0."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a board that shows one run of snnl-projected on digits."""
    runs = tmp_path_factory.mktemp("board") / "runs"
    options = f"--steps {STEPS} --batch-size 64 --log-every 20 --sample-every 60 --checkpoint-every 150 --device cpu"
    networks = "--dataset digits --objective snnl-projected --arch mlp --set width=128 --learning-rate 0.002"
    with pytest.raises(SystemExit) as left:
        main(f"train {networks} {options} --run-dir {runs}/projected --data-dir {runs.parent}/data".split())
    assert left.value.code == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    command = [sys.executable, "-m", "snngan", "board", str(runs), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = f"http://localhost:{port}"
        wait_for(lambda: read_json(f"{address}/data/runs") == ["projected"])
        wait_for(lambda: len(read_json(f"{address}/data/plugin/scalars/tags")["projected"]) == 13)
        yield address
        assert process.poll() is None
    finally:
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert f"http://localhost:{port}/ (Press CTRL+C to quit)" in out + err
    assert "Traceback" not in out + err
    assert "Warning" not in out + err


def read_json(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def save_screenshot(browser: Any, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that saves a screenshot of the page as ``name``.png."""
    folder = Path(os.environ.get("SNNGAN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str) -> None:
        assert browser.save_screenshot(str(folder / f"{name}.png"))

    yield keep
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not severe


pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs Chromium and its driver"),
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium"),
]
Screenshot = Callable[[str], None]


def open_page(browser: Any, address: str) -> Callable[..., bool]:
    """Open a page and return a function that tells whether it shows all of the given texts."""
    browser.get("about:blank")
    browser.get(address)

    def shows(*texts: str) -> bool:
        page = browser.execute_script(TEXT).replace("\n/", "/")
        return all(text in page for text in texts)

    return shows


@pytest.mark.parametrize("page", ["timeseries", "scalars"])
def test_curves(board: str, browser: Any, save_screenshot: Screenshot, page: str) -> None:
    shows = open_page(browser, f"{board}/#{page}")
    wait_for(lambda: shows("projected", "entanglement/input", "entanglement/input_score", "entanglement/projection"))
    curve = "line-chart svg path, line-chart canvas" if page == "timeseries" else "vz-line-chart2 svg path, .plot path"
    wait_for(lambda: bool(browser.execute_script(ELEMENTS, curve)))
    wait_for(lambda: shows(str(STEPS)))
    points = read_json(f"{board}/data/plugin/scalars/scalars?run=projected&tag=entanglement/input")
    assert [step for _, step, _ in points] == list(range(0, STEPS + 1, 20))
    assert points[0][2] < 0.01 < points[-1][2]
    time.sleep(2)  # the other plots are still being drawn
    save_screenshot(page)


def test_sample_grids(board: str, browser: Any, save_screenshot: Screenshot) -> None:
    shows = open_page(browser, f"{board}/#images")
    wait_for(lambda: shows("samples/fixed_noise", "samples/real", "step", str(STEPS)))
    sizes = "return [...arguments[0]].map(each => [each.naturalWidth, each.naturalHeight])"

    def image_sizes() -> list[list[int]]:
        images = browser.execute_script(ELEMENTS, "img")
        return [size for size in browser.execute_script(sizes, images) if size[0] > 100]

    wait_for(lambda: image_sizes() == [[400, 400]] * 2)
    save_screenshot("images")


def test_projector(board: str, browser: Any, save_screenshot: Screenshot) -> None:
    shows = open_page(browser, f"{board}/#projector")
    wait_for(lambda: bool(browser.execute_script(ELEMENTS, "iframe")))
    for _ in range(2):  # the frame of the plugin contains that of the projector
        wait_for(lambda: bool(browser.execute_script("return document.querySelectorAll('iframe').length")))
        browser.switch_to.frame(0)
    wait_for(lambda: shows("Points:\n256", "Dimension:\n10", "latest", "3 tensors found"))
    wait_for(lambda: any("sprite_image" in name for name, _ in browser.execute_script(LOADED)))
    loaded = {name.split("/projector/")[1]: status for name, status in browser.execute_script(LOADED)
              if "?run=projected" in name}  # fmt: skip
    assert {name.split("?")[0] for name in loaded} == {"info", "tensor", "metadata", "sprite_image"}
    assert set(loaded.values()) == {200}
    assert "sprite_image?run=projected&name=latest" in loaded
    labels = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "fetch('metadata?run=projected&name=latest').then(each => each.text()).then(done)"
    )
    assert labels.split() == ["real"] * 128 + ["synthetic"] * 128
    time.sleep(2)  # the points move to their places
    browser.switch_to.default_content()
    save_screenshot("projector")
