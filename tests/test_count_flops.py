"""The cost sheet: counted by hand on small networks, and the table of docs/models.md against the networks."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from fr.errors import InputError
from fr.models import MODELS, build_model, family
from tests.conftest import ROOT
from tools import count_flops
from tools.count_flops import count


def test_counts_equal_those_made_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
    found = count(model, (4, 4))
    assert found.parameters == 3 * 8 * 9 + 8 + 16 + 8 * 16 * 5 + 5
    assert found.macs == 3 * 8 * 9 * 16 + 8 * 16 * 5
    assert found.activations == 8 * 16 + 5


def rows() -> dict[str, list[str]]:
    """The table of docs/models.md: model → input, parameters, M MACs, M activations."""
    cells = (line.strip("| ").split(" | ") for line in (ROOT / "docs/models.md").read_text().splitlines())
    table = {cell[0].strip("`"): cell[1:5] for cell in cells if len(cell) == 6 and re.fullmatch(r"\d+×\d+", cell[1])}
    assert table.keys() == MODELS.keys()
    return table


@pytest.mark.parametrize("name", list(MODELS))
def test_the_table_of_models_holds_the_counts(name: str) -> None:
    size = family(name).input_size
    with torch.device("meta"):
        found = count(build_model(name, 256, size), size)
    million = 1e6
    assert rows()[name] == [
        *(f"{size[0]}×{size[1]}", f"{found.parameters:,}"),
        *(f"{found.macs / million:.1f}", f"{found.activations / million:.2f}"),
    ]


def test_the_command_counts_and_measures_a_model() -> None:
    options = ["--model", "mobilefacenet", "--embed_size", "128", "--input_size", "112", "96", "--batch", "2"]
    command = [sys.executable, "tools/count_flops.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    cells = result.stdout.splitlines()[-1].strip("| ").split("|")
    assert [cell.strip() for cell in cells[:2]] == ["mobilefacenet", "112×96"]
    assert all(float(cell) > 0 for cell in cells[5:7])


@pytest.mark.thorough
def test_a_network_is_counted_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm isn't installed: bash init_venv.sh --with timm")
    counted = []
    for words in ([], ["--model_kwargs", "reg_tokens=2"]):
        assert count_flops.main(["--model", "timm/test_vit", "--no_speed", *words]) == 0
        counted.append(int(capsys.readouterr().out.splitlines()[-1].split("|")[3].replace(",", "")))
    assert counted[1] - counted[0] == 2 * 64 + 2 * 64  # two tokens of 64 numbers, and their positions


def test_settings_that_a_network_lacks_are_refused() -> None:
    with pytest.raises(InputError, match="--model_kwargs depth: vit_t has no such setting"):
        count_flops.main(["--model", "vit_t", "--no_speed", "--model_kwargs", "depth=3"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "mobilnet"], "mobilenet"),
        (["--model", "mobilenet", "--input_size", "100", "96"], "sides that are multiples of 16, got 100×96"),
    ],
)
def test_what_cannot_be_counted_is_refused(options: list[str], message: str) -> None:
    command = [sys.executable, "tools/count_flops.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
