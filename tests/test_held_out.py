"""Top-1 and top-5 on held-out images: the sharded head against torch.topk, and a training against tools/classify.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import train
from fr.distributed import Ranks
from fr.errors import InputError
from fr.losses import classifier
from fr.losses.classifier import MarginSoftmax
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.train.held_out import read_held_out
from tests.conftest import SPREAD, TINY, data_options, folders
from tools.classify import main as classify

CLASSES, EMBED_SIZE, IMAGES = 11, 6, 2500


def embeddings_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(2)
    return torch.randn(IMAGES, EMBED_SIZE, generator=source), torch.randint(CLASSES, (IMAGES,), generator=source)


def rivals_on_a_rank(kind: str, sub_centers: int) -> dict[str, torch.Tensor]:
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(margin_type=kind, sub_centers=sub_centers), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "PIECE", 4_000)  # 1,000 images of 4 classes at a time
        rivals = head.rivals(*embeddings_and_labels())
    return {"rivals": rivals, "weight": head.weight.detach()}


def test_a_network_that_tells_nobody_apart_is_not_right(one_rank: None) -> None:
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), seed=1)
    labels = torch.arange(CLASSES)
    assert head.rivals(torch.zeros(CLASSES, EMBED_SIZE), labels).tolist() == [CLASSES - 1] * CLASSES
    assert head.rivals(torch.full((CLASSES, EMBED_SIZE), torch.nan), labels).tolist() == [CLASSES - 1] * CLASSES


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize(("kind", "sub_centers"), [("arc", 1), ("arc", 3), ("linear", 1)])
def test_a_sharded_head_ranks_classes_as_torch_does(
    run_distributed: Callable[..., list[dict[str, Any]]], world: int, kind: str, sub_centers: int
) -> None:
    ranks = run_distributed(world, rivals_on_a_rank, kind, sub_centers)
    weight = torch.cat([one["weight"] for one in ranks]).double()
    embeddings, labels = embeddings_and_labels()
    if kind == "linear":
        logits = F.linear(embeddings.double(), weight[:, :-1], weight[:, -1])
    else:
        of_each = [F.normalize(embeddings.double()) @ F.normalize(one).T for one in weight.split(EMBED_SIZE, dim=1)]
        logits = torch.stack(of_each).amax(dim=0)
    for k in (1, 5):
        wanted = (logits.topk(k).indices == labels[:, None]).any(dim=1)
        for one in ranks:
            assert torch.equal(one["rivals"] < k, wanted)


def test_a_training_scores_its_held_out_list_as_classify_does(sample_data: Path, tmp_path: Path) -> None:
    root, landmarks = data_options(sample_data)[:2], data_options(sample_data)[4:]
    lines = (sample_data / "vggface2/meta/train_list.txt").read_text().splitlines()
    names = {part: tmp_path / f"{part}_list.txt" for part in ("train", "train_held_out")}
    names["train"].write_text("".join(f"{line}\n" for at, line in enumerate(lines) if at % 5))
    names["train_held_out"].write_text("".join(f"{line}\n" for line in lines[::5]))
    options = [*root, *landmarks, "--train_list", str(names["train"])]
    held_out = ["--held_out_list", str(names["train_held_out"])]
    short = ["--max_iterations", "2", "--val_step", "1"]
    assert train.main([*options, *TINY, *SPREAD, *short, *held_out, *folders(tmp_path)]) == 0
    first, last = (json.loads(line) for line in (tmp_path / "logs/validation.jsonl").read_text().splitlines())
    assert first.keys() == last.keys() == {"iteration", "held_out_top1", "held_out_top5"}
    figures, snap = tmp_path / "f.json", ["--snap", str(tmp_path / "snapshots/tiny_2.pt")]
    options = [*root, *landmarks, "--train_list", str(names["train_held_out"])]
    assert classify([*snap, *options, "--json", str(figures), "--device", "cpu"]) == 0
    metrics = json.loads(figures.read_text())
    assert metrics["images"] == len(lines[::5])
    assert (metrics["top1"], metrics["top5"]) == (last["held_out_top1"], last["held_out_top5"])


def test_held_out_images_have_the_classes_of_the_training_and_others_are_left_out(
    sample_data: Path, one_rank: None
) -> None:
    listed = (sample_data / "vggface2/meta/train_list.txt").read_text().split()
    trained = sorted({name.split("/")[0] for name in listed}, reverse=True)[:-2]  # in another order, without two
    options = train_options([*data_options(sample_data), "--held_out_list", data_options(sample_data)[3]])
    held_out = read_held_out(vars(options.values), trained, Ranks(0, 1, 0, 1, torch.device("cpu")))
    assert held_out
    names = held_out.faces.names.to_pylist()
    assert names == [name for name in listed if name.split("/")[0] in trained]
    assert [trained[number] for number in held_out.classes.tolist()] == [name.split("/")[0] for name in names]


def test_a_format_without_lists_is_refused() -> None:
    with pytest.raises(InputError, match="--held_out_list: --train_dataset rec has no lists"):
        train_options(["--train_dataset", "rec", "--train_data_root", "x", "--held_out_list", "y"])
