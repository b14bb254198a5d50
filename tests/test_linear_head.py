"""--margin_type linear against torch.nn.Linear and cross_entropy: steps, state, and other numbers of ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fr.checkpoint import snapshot
from fr.checkpoint.training_state import TrainingState, save
from fr.distributed import rank, world_size
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from fr.weights.initial_weights import InitialWeights, initialise
from fr.weights.loading import read_weights
from tests.conftest import REQUIRED, SPREAD, TINY, data_options, folders

CLASSES, EMBED_SIZE, BATCH, STEPS = 7, 5, 12, 3
LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
LINEAR = LossSettings(margin_type="linear", center_loss_weight=0.01)  # whose centres have no column for the bias


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(BATCH, 4, generator=source),
            torch.randint(CLASSES, (BATCH,), generator=source),
        )
        for _ in range(2 * STEPS)
    ]


def learner_of(settings: LossSettings = LINEAR) -> Learner:
    torch.manual_seed(0)
    backbone = nn.Linear(4, EMBED_SIZE)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, settings, seed=3)
    return Learner(backbone, head, build_sgd([*backbone.parameters(), *head.parameters()], LR, MOMENTUM, DECAY))


def steps(learner: Learner, first: int) -> list[torch.Tensor]:
    """Losses of STEPS steps."""
    share = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    learner.training_mode()
    return [
        learner.step([(inputs[share], labels[share])], first + index, LR)["softmax_loss"]
        for index, (inputs, labels) in enumerate(batches()[first : first + STEPS])
    ]


def on_a_rank(folder: str, begin: bool) -> dict[str, torch.Tensor]:
    """The first steps, whose state is saved; or the ones after, from that state."""
    learner = learner_of()
    state = TrainingState(learner)
    if not begin:
        state.load(Path(folder))
    losses = steps(learner, 0 if begin else STEPS)
    if begin:
        save(state.now(), Path(folder))
    return {"losses": torch.stack(losses), "weight": learner.head.weight.detach().clone()}


def torchs_own() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses of all steps, and the classifier [C, E + 1] after half and all of them, with the centre loss beside."""
    torch.manual_seed(0)
    backbone, classifier = nn.Linear(4, EMBED_SIZE), nn.Linear(EMBED_SIZE, CLASSES)
    with torch.no_grad():
        initial = initial_of_one_process()
        classifier.weight.copy_(initial[:, :-1])
        classifier.bias.copy_(initial[:, -1])
    centers = torch.zeros(CLASSES, EMBED_SIZE)
    optimizer = torch.optim.SGD(
        [*backbone.parameters(), *classifier.parameters()], LR, momentum=MOMENTUM, weight_decay=DECAY
    )
    losses, weights = [], []
    for inputs, labels in batches():
        embeddings = backbone(inputs)
        loss = F.cross_entropy(classifier(embeddings), labels)
        center_loss = ((embeddings - centers[labels]) ** 2).sum(dim=1).mean()
        optimizer.zero_grad()
        (loss + 0.01 * center_loss).backward()
        optimizer.step()
        for label in labels.unique():
            own = embeddings.detach()[labels == label]
            centers[label] -= 0.5 * (centers[label] - own).sum(dim=0) / (1 + len(own))
        losses.append(loss.detach())
        weights.append(torch.cat([classifier.weight, classifier.bias[:, None]], dim=1).detach().clone())
    return torch.stack(losses), weights[STEPS - 1], weights[-1]


def initial_of_one_process() -> torch.Tensor:
    assert not dist.is_initialized()
    return MarginSoftmax(CLASSES, EMBED_SIZE, LINEAR, seed=3).weight.detach()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_steps_equal_torchs_before_and_after_a_change_of_the_ranks(
    run_distributed: Callable[..., list[dict[str, Any]]], before: int, after: int, tmp_path: Path
) -> None:
    losses, half, whole = torchs_own()
    for world, begin, wanted, weight in ((before, True, losses[:STEPS], half), (after, False, losses[STEPS:], whole)):
        ranks = run_distributed(world, on_a_rank, str(tmp_path / "t.state"), begin)
        for number, result in enumerate(ranks):
            # Sums of twelve samples in another order: some units in the last place, over six steps.
            torch.testing.assert_close(result["losses"], wanted, rtol=1e-5, atol=1e-6)
            assert len(result["weight"]) == shard_rows(CLASSES, world, number)[1]
        torch.testing.assert_close(torch.cat([one["weight"] for one in ranks]), weight, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_spread_as_those_of_torchs_linear() -> None:
    weight = MarginSoftmax(2000, 64, LossSettings(margin_type="linear"), seed=0).weight.detach()
    bound = 1 / 64**0.5
    assert weight.shape == (2000, 65) and weight.abs().max() <= bound
    # Of a uniform distribution; 130,000 draws give its deviation to some 0.2 %.
    assert abs(weight.std().item() - bound / 3**0.5) < 0.01 * bound


def test_a_run_begins_with_the_bias_of_a_file_and_with_0_where_it_has_none(one_rank: None, tmp_path: Path) -> None:
    learner, names, path = learner_of(), [f"person {row}" for row in range(CLASSES)], tmp_path / "w.pt"
    head, bias = torch.randn(CLASSES, EMBED_SIZE), torch.randn(CLASSES)
    sizes, stored = {"input_size": [8, 8]}, learner.backbone.state_dict()
    wish = InitialWeights(str(path), False, "", False, "", [])
    for given, wanted in ((bias, bias), (None, torch.zeros(CLASSES))):
        contents = snapshot.SnapshotContents("small", EMBED_SIZE, sizes, state_dict=stored, head=head, head_bias=given)
        snapshot.write_weights(path, replace(contents, identities=names))
        initialise(learner.backbone, learner.head, names[::-1], wish, False)
        assert torch.equal(learner.head.weight, torch.cat([head, wanted[:, None]], dim=1).flip(0))


def test_what_is_about_cosines_is_refused() -> None:
    for option in (["--s", "20"], ["--m", "0.1"], ["--mining_type", "sv"], ["--min_margin_loss_weight", "1"]):
        with pytest.raises(InputError, match=option[0]):
            train_options([*REQUIRED, "--margin_type", "linear", *option])


def test_a_training_with_it_writes_a_head_with_a_bias(sample_data: Path, tmp_path: Path) -> None:
    import train

    options = [*data_options(sample_data), *TINY, *SPREAD, "--max_iterations", "1", "--margin_type", "linear"]
    assert train.main([*options, *folders(tmp_path)]) == 0
    weights = read_weights(tmp_path / "snapshots/tiny_1.pt")
    embed_size = snapshot.read(weights.path).embed_size
    assert weights.head is not None and weights.bias is not None
    assert weights.head.shape == (12, embed_size) and weights.bias.shape == (12,)
