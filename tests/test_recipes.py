"""The recipes of configs/: what their headers and configs/README.md say of them, and ten iterations of each."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import train
from fr.files.model_metadata import CONTRACT_KEY
from fr.options.definitions import train_options
from fr.options.names import TIMM
from fr.preprocessing import Preprocessing
from tests.builders.onnx_files import foreign
from tests.conftest import ROOT, data_options, folders, records
from tools import plan

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.yml"))
NO_VALIDATION = [word for name in ("data_root", "list", "landmarks") for word in (f"--val_{name}", "")]


@pytest.fixture(autouse=True)
def folders_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in RECIPES:
        for name in re.findall(r"\$(\w+)", path.read_text()):
            monkeypatch.setenv(name, f"/{name}")


def rows(heading: str = "Models, data and expected scores") -> dict[str, list[str]]:
    """Table of a section of configs/README.md: recipe and options of its variant → the cells behind it."""
    section = (CONFIGS / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {cell[0].strip("`"): cell[1:] for cell in cells}


def number(pattern: str, text: str) -> int:
    match = re.search(rf"([\d,]+) {pattern}", text)
    return int(match[1].replace(",", "")) if match else 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_header_has_the_number_of_iterations(path: Path) -> None:
    header = path.read_text().split("\n\n")[0]
    images, iterations = number("images", header), number("iterations", header.partition("# cost:")[2])
    if path.stem == "fine_tune":  # for whatever images the user has
        assert not iterations
        return
    options = train_options([f"@{path}"]).values
    expected = options.epoch_total_num * (images // options.train_batch_size)
    assert iterations and iterations == pytest.approx(expected, rel=1e-3)  # "about 471,000"


def test_the_page_has_each_recipe_and_no_other() -> None:
    assert {name.split()[0] for name in rows()} == {path.name for path in RECIPES}


@pytest.mark.parametrize("name", rows())
def test_a_row_says_what_the_recipe_does(name: str) -> None:
    options = train_options([f"@{CONFIGS / name.split()[0]}", *shlex.split(name)[1:]]).values
    _data, model, loss, batch, *_rest = rows()[name]
    assert model == f"`{options.model}`"
    if options.softmax_weight:
        assert f"`{options.margin_type}`" in loss and f"s {options.s:g}" in loss
    assert bool(options.teacher) == ("teacher" in loss)
    rate = re.search(r"sampled ([\d.]+)", loss)
    assert options.sample_rate == (float(rate[1]) if rate else 1)
    assert batch == f"{options.train_batch_size:,} × {options.epoch_total_num}"


@pytest.mark.thorough
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(path: Path, sample_data: Path, tmp_path: Path) -> None:
    """At a sixteenth of the batch, and 32 pixels, which all models but timm's take: iresnet100 needs minutes at 112."""
    recipe = train_options([f"@{path}"]).values
    timm = recipe.model.startswith(TIMM)
    if timm:
        pytest.importorskip("timm")
    options = [f"@{path}", "--train_dataset", "vgg", *data_options(sample_data), *NO_VALIDATION, "--val_sets"]
    options += ["--init_from", "", "--train_batch_size", str(min(64, max(4, recipe.train_batch_size // 16)))]
    options += [] if timm else ["--input_size", "32"]
    if recipe.teacher:  # any network, and the loss that any goes with
        contract = json.dumps(Preprocessing((32, 48)).as_dict())
        teacher = foreign(tmp_path / "teacher.onnx", metadata={CONTRACT_KEY: contract})
        options += ["--teacher", str(teacher), "--distill_cosine_weight", "0", "--distill_relation_weight", "1"]
    options += ["--max_iterations", "10", "--log_step", "1", "--device", "cpu", "--dali_threads", "1"]
    assert train.main([*options, *folders(tmp_path)]) == 0
    steps: list[dict[str, Any]] = records(tmp_path / "logs")
    assert [step["iteration"] for step in steps] == [*range(1, 11)]
    assert all(math.isfinite(step["loss"]) and not step["skipped_steps"] for step in steps), json.dumps(steps)


@pytest.mark.parametrize("name", rows("Memory and hours"))
def test_the_page_has_what_the_planner_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = CONFIGS / name.split()[0]
    identities, images, *figures = rows("Memory and hours")[name]
    assert f"{identities} identities, {images} images" in path.read_text()
    data = ["--identities", identities.replace(",", ""), "--images", images.replace(",", "")]
    plan.main([f"@{path}", *shlex.split(name)[1:], "--gpus", "8", "--gpu", "a100", *data, "--json"])
    planned = json.loads(capsys.readouterr().out)
    expected = planned["memory"]["total"] / 1e9, planned["images_per_s"], planned["hours"]
    assert figures == [f"{expected[0]:.1f}", f"{expected[1]:,.0f}", f"{expected[2]:,.1f}"]
