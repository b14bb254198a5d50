"""Pages in a real browser: reports of evaluate_lfw.py and tools/report_runs.py, and TensorBoard on the logs of a run.

Debian's packages chromium and chromium-driver; where they aren't installed the tests say that they are skipped.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import evaluate_lfw
import train
from tests.conftest import ROOT, TINY, data_options, folders, records, validation_options
from tools import report_runs

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# In a closed network the browser would look up hosts of its maker for minutes.
OFFLINE = ("background-networking", "component-update", "sync", "quic")
PATIENCE = 120  # seconds that a busy machine may take for a page

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in ("headless", "no-sandbox", "disable-gpu", "no-first-run", *(f"disable-{name}" for name in OFFLINE)):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def trained(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the quick start's recipe on less data, with images of half the size."""
    out = tmp_path_factory.mktemp("trained")
    recipe = [f"@{ROOT}/configs/quickstart.yml", *data_options(sample_data), *validation_options(sample_data)]
    assert train.main([*recipe, *TINY, *folders(out), "--max_iterations", "4", "--val_step", "2"]) == 0
    return out


def pictures(browser: webdriver.Chrome) -> list[int]:
    """Widths of the images in the page that the browser could draw; 0 of one that it couldn't."""
    found: list[int] = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    return found


def errors(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_report_shows_its_figures_and_pictures_on_any_screen_and_fetches_nothing(
    browser: webdriver.Chrome, trained: Path, tmp_path: Path
) -> None:
    snap = str(trained / "snapshots" / "tiny_4.pt")
    assert evaluate_lfw.main(["--snap", snap, "--report", str(tmp_path), "--device", "cpu", "--bootstrap", "50"]) == 0
    browser.get((tmp_path / "index.html").as_uri())
    content = json.loads((tmp_path / "report.json").read_text())
    shown = browser.find_element(By.TAG_NAME, "body").text
    for name in ("accuracy", "accuracy_std", "same_accuracy", "diff_accuracy", "auc"):
        assert f"{content['figures'][name]:.4f}" in shown, name
    assert f"{content['figures']['threshold']:.4g}" in shown
    for value in content["facts"].values():
        assert " ".join(value.split()) in shown
    wrong = browser.find_elements(By.CLASS_NAME, "pair")
    assert wrong, "four iterations judge every pair rightly?"
    widths = pictures(browser)
    plots = len(list(tmp_path.glob("*.png")))
    assert plots >= 3 and len(widths) == plots + 2 * len(wrong) and all(widths)  # and both faces of each pair
    fetched: list[str] = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert fits_screens_and_paper(browser)
    assert errors(browser) == []


def fits_screens_and_paper(browser: webdriver.Chrome) -> bool:
    """Test if nothing is wider than a screen, the narrowest of a phone, or the 180 mm of A4 paper that are printed on,
    and no figure or row is cut where a page ends."""
    try:
        for width, medium in ((1280, "screen"), (360, "screen"), (680, "print")):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium})
            shown: int = browser.execute_script("return document.documentElement.scrollWidth")
            assert browser.execute_script("return window.innerWidth") == width
            assert shown <= width, (shown, width, medium)
        parts = "[...document.querySelectorAll('figure, tr')]"
        return bool(browser.execute_script(f"return {parts}.every(e => getComputedStyle(e).breakInside == 'avoid')"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_comparison_of_many_runs_fits_any_screen_and_fetches_nothing(
    browser: webdriver.Chrome, trained: Path, tmp_path: Path
) -> None:
    configs = []
    for number in range(7):
        configs.append(tmp_path / f"number_{number}" / "tiny.config.yml")
        configs[-1].parent.mkdir()
        text = (trained / "snapshots/tiny.config.yml").read_text()
        configs[-1].write_text(text.replace("\nlr: ", f"\nlr: {number}"))
    assert report_runs.main([*map(str, configs), "--out", str(tmp_path)]) == 0
    browser.get((tmp_path / "index.html").as_uri())
    shown = browser.find_element(By.TAG_NAME, "body").text
    last = json.loads((trained / "logs/validation.jsonl").read_text().splitlines()[-1])
    assert f"{last['auc']:.4f} at 4" in shown and "number_6/tiny" in shown
    assert re.search(r"^lr( \d[\d.]*){7}$", shown, re.MULTILINE)
    widths = pictures(browser)
    assert len(widths) >= 4 and all(widths)
    fetched: list[str] = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert fits_screens_and_paper(browser)
    assert errors(browser) == []


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of one that looks at the folder, on loopback at a free port."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = ""
            for line in process.stderr:
                said += line
                if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    yield address[0]
                    return
            pytest.fail(f"it didn't start: {said}")
        finally:
            process.kill()


def until(found: Callable[[], object], browser: webdriver.Chrome) -> None:
    try:
        WebDriverWait(browser, PATIENCE).until(lambda _: found())
    except TimeoutException:
        pytest.fail(f"not within {PATIENCE} s, but: {browser.find_element(By.TAG_NAME, 'body').text}")


def test_tensorboard_shows_the_scalars_and_the_pictures_of_a_run(browser: webdriver.Chrome, trained: Path) -> None:
    loss = records(trained / "logs")[-1]["loss"]
    with tensorboard(trained / "logs") as address:
        browser.set_window_size(1280, 1600)
        browser.get(f"{address}?tagFilter=train_loss%7CVal_accuracy%24%7CInput#timeseries")
        body = browser.find_element(By.TAG_NAME, "body")
        cards = ("Loss\n/train_loss", "Accuracy\n/Val_accuracy", "Input")
        until(lambda: all(name in body.text for name in cards), browser)
        until(lambda: f"{loss:.4f}"[:-1] in body.text, browser)  # the last of the curve, in the table below it
        until(lambda: any(width > 32 for width in pictures(browser)), browser)
        assert errors(browser) == []
