"""--pretrained: torchvision's ImageNet weights, downloaded once, without the last layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from fr.distributed import rank
from fr.errors import InputError
from fr.weights.initial_weights import imagenet_weights
from tests.conftest import Losses, same_weights, weights
from tests.weight_files import filled


def imagenet_file(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "hub" / "checkpoints" / "resnet34-b627a593.pth"  # the name in torchvision's address of it
    path.parent.mkdir(parents=True, exist_ok=True)
    state = filled({key: tuple(tensor.shape) for key, tensor in torchvision.models.resnet34().state_dict().items()})
    torch.save(state, path)
    return state


def test_pretrained_begins_with_all_of_the_imagenet_weights_but_the_last_layer(
    run: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = imagenet_file(tmp_path)
    still = ["--lr", "1e-30", "--max_iterations", "1", "--freeze_bn"]  # float32 weights stay what they are
    run(*still, "--model", "resnet34", "--pretrained")
    begun = weights(tmp_path, 1)
    assert same_weights(
        {key: tensor for key, tensor in begun.items() if ".fc." not in key},
        {f"model.{key}": tensor for key, tensor in state.items() if not key.startswith("fc.")},
    )
    assert begun["model.fc.weight"].shape == (16, 512)


def download_on_a_rank(folder: str) -> str:
    """File that torchvision would download; the name of each that did is noted."""

    def fetch(_url: str, path: str, _prefix: str, progress: bool) -> None:
        (Path(folder) / f"fetched by {rank()}").touch()
        imagenet_file(Path(folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", folder)
        patch.setattr(torch.hub, "download_url_to_file", fetch)
        return imagenet_weights("resnet34").model


def test_the_first_rank_downloads_and_the_others_find_the_file(
    run_distributed: Callable[..., list[Any]], tmp_path: Path
) -> None:
    assert run_distributed(2, download_on_a_rank, str(tmp_path)) == ["resnet34", "resnet34"]
    assert [path.name for path in tmp_path.glob("fetched*")] == ["fetched by 0"]


def test_a_failing_download_says_where_the_file_goes(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(InputError) as refusal:
        imagenet_weights("resnet34")
    path = tmp_path / "hub/checkpoints/resnet34-b627a593.pth"
    assert str(refusal.value).endswith(f"resnet34-b627a593.pth: no route to host; put that file at {path} by hand")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="by hand"):
        imagenet_weights("resnet34")
