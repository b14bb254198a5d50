"""Builders of scored models that several test files use."""

from pathlib import Path

import pytest
import torch

from fr.models import build_model
from fr.preprocessing import Preprocessing
from tests.conftest import validation_options

SIZE = (32, 32)


@pytest.fixture(scope="module")
def models(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Snapshots of two networks with random weights."""
    folder = tmp_path_factory.mktemp("models")
    options = validation_options(sample_data)
    config = {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        contents = {
            "format": 1, "model": "mobilenet", "embed_size": 16, "preprocessing": Preprocessing(SIZE).as_dict(),
            "iteration": 0, "state_dict": build_model("mobilenet", 16, SIZE).state_dict(), "metrics": {}, "run": {},
            "config": config,
        }  # fmt: skip
        torch.save(contents, folder / f"{name}.pt")
    return [str(folder / "a.pt"), str(folder / "b.pt")]
