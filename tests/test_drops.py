"""Stochastic depth, dropout and masked tokens: equal for any ranks, micro-batches and resume, and distributed right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fr.checkpoint import resuming, snapshot
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.distributed import rank, world_size
from fr.errors import InputError
from fr.evaluation.scored_model import load_backbone
from fr.losses.classifier import MarginSoftmax
from fr.models import build_model
from fr.models.drops import Drop, Dropout, DropPath, MaskedTokens, drawn, drops_of, words
from fr.options.losses import LossSettings
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd
from fr.train.replicas import checkpoint_blocks
from tests.conftest import Losses, same_weights, weights

CLASSES, EMBED_SIZE, FEATURES, SAMPLES = 9, 6, 8, 24
CONTENTS = SnapshotContents("small", EMBED_SIZE, {})


class Block(nn.Module):
    """Both kinds of drops, in a residual block that activation checkpointing finds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, FEATURES)
        self.dropout, self.drop_path = Dropout(0.3), DropPath(0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.linear(self.dropout(x)))


def learner_of(seed: int, checkpointed: bool = False, dtype: torch.dtype = torch.float64) -> Learner:
    """A network without batch norms."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Sequential(Block(), Block()), nn.Linear(FEATURES, EMBED_SIZE)).to(dtype)
    if checkpointed:
        checkpoint_blocks(backbone)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), seed=1).to(dtype)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 1e-4)
    learner = Learner(backbone, head, optimizer, StepSettings(seed=5))
    learner.training_mode()
    return learner


def steps(learner: Learner, iterations: range, parts: int = 1) -> None:
    """Steps on global batches that depend on the iteration alone, split as `TrainingStream` splits them."""
    for iteration in iterations:
        source = torch.Generator().manual_seed(iteration)
        inputs = torch.randn(SAMPLES, FEATURES, generator=source).to(learner.head.weight.dtype)
        labels = torch.randint(CLASSES, (SAMPLES,), generator=source)
        parts_of_all = zip(inputs.chunk(parts * world_size()), labels.chunk(parts * world_size()), strict=True)
        learner.step(list(parts_of_all)[rank() :: world_size()], iteration, 0.1)


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.backbone.state_dict().items()}


def factors_and_weights(parts: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The factors of each drop, micro-batch by micro-batch, and the weights after 3 steps."""
    learner, factors = learner_of(1), []
    for drop in drops_of(learner.backbone):
        drop.register_forward_hook(lambda _drop, inputs, output: factors.append((output / inputs[0]).detach()))
    steps(learner, range(3), parts)
    return factors, weights_of(learner)


def in_global_order(of_ranks: list[list[torch.Tensor]], parts: int) -> list[torch.Tensor]:
    """The factors of each iteration and drop, over the samples of the global batch."""
    drops = 4
    firsts = (iteration * parts * drops + drop for iteration in range(3) for drop in range(drops))
    return [torch.cat([one[first + part * drops] for part in range(parts) for one in of_ranks]) for first in firsts]


@pytest.mark.parametrize(("ranks", "parts"), [(1, 3), (2, 1), (2, 2)])
def test_each_sample_has_the_same_drops_on_any_ranks_and_micro_batches(
    ranks: int, parts: int, run_distributed: Callable[..., Any]
) -> None:
    ((of_one, weights),) = run_distributed(1, factors_and_weights, 1)
    results = run_distributed(ranks, factors_and_weights, parts)
    assert {*torch.cat([factors.flatten() for factors in of_one]).round(decimals=6).tolist()} == {0, 1.428571, 1.666667}
    factors = in_global_order([factors for factors, _ in results], parts)
    for found, wanted in zip(factors, of_one, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)  # quotients of float64: the last bit may differ
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-10, atol=1e-12)  # sums in another order


def test_activation_checkpointing_drops_the_same_again(one_rank: None) -> None:
    plain, checkpointed = learner_of(1), learner_of(1, checkpointed=True)
    for learner in (plain, checkpointed):
        steps(learner, range(3), 2)
    for name, tensor in weights_of(plain).items():
        assert torch.equal(tensor, weights_of(checkpointed)[name]), name


def test_a_resumed_run_drops_as_one_that_went_on(one_rank: None, tmp_path: Path) -> None:
    whole, part, resumed = (learner_of(seed, dtype=torch.float32) for seed in (1, 1, 2))
    steps(whole, range(6))
    steps(part, range(3))
    SnapshotWriter(tmp_path, "net", TrainingState(part), (), print).write(3, CONTENTS)
    resuming.resume([tmp_path / "net_3.pt"], TrainingState(resumed), CONTENTS)
    torch.rand(7)  # an earlier draw of torch's generator changes nothing
    steps(resumed, range(3, 6))
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(resumed)[name]), name


def dropped(drop: Drop, x: torch.Tensor, seed: int = 0, iteration: int = 0, first: int = 0) -> torch.Tensor:
    """One forward pass, behind another layer that draws."""
    with drawn([Dropout(0.5), drop], seed, iteration, first, x):
        y: torch.Tensor = drop(x)
    return y


@pytest.mark.parametrize("change", ["seed", "iteration", "first"])
def test_each_part_of_the_address_matters(change: str) -> None:
    x = torch.ones(64, 3)
    for drop in (DropPath(0.5), Dropout(0.5)):
        assert torch.equal(dropped(drop, x), dropped(drop, x))
        assert not torch.equal(dropped(drop, x), dropped(drop, x, **{change: 1}))


def test_layers_drop_independently() -> None:
    one, two, x = DropPath(0.5), DropPath(0.5), torch.ones(4096, 1)
    with drawn([one, two], 0, 0, 0, x):
        correlation = torch.corrcoef(torch.stack([one(x).flatten(), two(x).flatten()]))[0, 1].item()
    assert abs(correlation) < 5 / 4096**0.5  # five standard deviations, at a fixed seed


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_is_kept_and_so_is_the_expectation(rate: float, dtype: torch.dtype) -> None:
    count = 2**16
    for drop, shape in ((DropPath(rate), (count, 2)), (Dropout(rate), (16, 4, count // 64))):
        y = dropped(drop, torch.ones(shape, dtype=dtype))
        values = y.unique()
        assert y.dtype == dtype and len(values) == 2 and values[0] == 0
        assert values[1].item() == pytest.approx(1 / (1 - rate), rel=torch.finfo(dtype).eps)
        kept = (y != 0).double().mean().item()
        assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5  # five standard deviations
    assert torch.equal(y[:, 0], y[:, 1]) == (y.shape[1] == 2)


def hashed(x: Any) -> Any:
    """hash-prospector's published C function, in NumPy's 32-bit arithmetic."""
    x = x ^ x >> np.uint32(16)
    x = x * np.uint32(0x21F0AAAD)
    x = x ^ x >> np.uint32(15)
    x = x * np.uint32(0x735A2D97)
    return x ^ x >> np.uint32(15)


def test_words_are_the_32_bit_hash_of_column_and_key() -> None:
    keys = np.random.default_rng(0).integers(2**32, size=8, dtype=np.uint32)
    expected = hashed(hashed(np.arange(1000, dtype=np.uint32)) ^ keys[:, None])
    np.testing.assert_array_equal(words(torch.from_numpy(keys.astype(np.int64)), 1000).numpy(), expected)


def test_words_are_uniform_and_uncorrelated_over_neighbouring_samples_and_columns() -> None:
    """Also for keys that differ by one bit, as counters would."""
    keys = torch.arange(64)
    table = words(keys, 1024).double() / 2**32
    assert table.min() >= 0 and table.max() < 1 and table.unique().numel() > 0.9999 * table.numel()
    counts = torch.histc(table, 256, 0, 1)
    expected = table.numel() / 256
    # χ² of 255 degrees of freedom: mean 255, deviation √510; five of them.
    assert ((counts - expected).square() / expected).sum().item() < 255 + 5 * 510**0.5
    limit = 5 / table.numel() ** 0.5
    for one, two in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1].item()) < limit
    bits = (words(keys, 1024)[..., None] >> torch.arange(32)) & 1
    assert (bits.double().mean(dim=(0, 1)) - 0.5).abs().max().item() < limit / 2


def test_dropout_takes_several_rows_a_sample_as_window_attention_has_them() -> None:
    drop = Dropout(0.5)
    x = torch.ones(4, 3, 5)
    drop.keys = torch.tensor([1, 2])
    assert torch.equal(drop(x).view(2, 30), drop(x.view(2, 30)))


def test_nothing_is_dropped_in_evaluation_nor_outside_of_a_step() -> None:
    x = torch.ones(8, 3)
    for drop in (DropPath(0.9), Dropout(0.9)):
        assert torch.equal(drop(x), x)
        assert torch.equal(dropped(drop.eval(), x), x)
    with pytest.raises(InputError, match=r"a drop rate of 1: must be at least 0 and below 1"):
        DropPath(1)


def test_masked_tokens_leave_each_sample_a_share_at_other_places() -> None:
    masked, tokens = MaskedTokens(0.1), torch.ones(256, 144, 2)
    with drawn([masked], 0, 0, 0, tokens):
        seen = masked.seen(tokens)
    assert seen is not None and seen.shape == (256, 129)  # ⌊144 · 0.9⌋
    counts = torch.zeros(256, 144).scatter_add_(1, seen, torch.ones(seen.shape))
    assert counts.max() == 1
    # A place is hidden 256 · 15 / 144 = 27 times on average, with a deviation of 5; none more than five of them off.
    hidden = 256 - counts.sum(dim=0)
    assert hidden.min() > 2 and hidden.max() < 52
    assert masked.seen(tokens) is None


def test_a_face_transformer_puts_the_mask_token_where_tokens_were_hidden() -> None:
    torch.manual_seed(0)
    model = build_model("vit_t", 8, (36, 36), {"drop_path_rate": 0, "mask_ratio": 0.5}).double().train()
    images, inputs = torch.rand(3, 3, 36, 36, dtype=torch.float64), []
    hook = model.get_submodule("feature").register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    with drawn(drops_of(model), 0, 0, 0, images):
        embeddings = model(images)
    hook.remove()
    is_mask = (inputs[0].view(3, 16, 256) == model.get_parameter("mask_token")).all(dim=2)
    assert is_mask.sum(dim=1).tolist() == [8, 8, 8]
    embeddings.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key
    unmasked = build_model("vit_t", 8, (36, 36), {"mask_ratio": 0})
    assert [key for key, one in unmasked.named_parameters() if not one.requires_grad] == ["mask_token"]


def test_the_depth_of_a_face_transformer_grows_more_stochastic() -> None:
    for kwargs, last in (({}, 0.1), ({"drop_path_rate": 0.05}, 0.05)):
        with torch.device("meta"):
            model = build_model("vit_t", 8, (36, 36), kwargs)
        rates = [drop.rate for drop in drops_of(model) if isinstance(drop, DropPath)]
        assert rates == pytest.approx(np.repeat(np.linspace(0, last, 12), 2).tolist())


SETTINGS = ["--model", "vit_t", "--input_size", "36", "--model_kwargs", "drop_path_rate=0.4", "mask_ratio=0.25"]


@pytest.mark.thorough
def test_a_training_with_settings_stores_them_and_resumes_with_every_bit(
    run: Callable[..., Losses], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(*SETTINGS, "--max_iterations", "4", out=whole)
    run(*SETTINGS, "--max_iterations", "2", out=parts)
    path = parts / "snapshots" / "tiny_2.pt"
    resumed = [*SETTINGS, "--max_iterations", "4", "--snap_to_resume", str(path)]
    torch.manual_seed(9)
    assert run(*resumed, out=parts) == expected
    assert same_weights(weights(parts, 4), weights(whole, 4))
    assert run(*SETTINGS, "--model_kwargs", "drop_path_rate=0", "mask_ratio=0", out=tmp_path / "other") != expected[:3]

    contents = snapshot.read(path)
    assert contents.model_kwargs == {"drop_path_rate": 0.4, "mask_ratio": 0.25}
    assert [drop.rate for drop in drops_of(load_backbone(path, contents, (36, 36)))][-1] == pytest.approx(0.4)
    with pytest.raises(InputError, match=r"model_kwargs\.mask_ratio is 0\.25 there and None in this run"):
        run(*resumed, "--model_kwargs", "drop_path_rate=0.4", out=parts)


def test_settings_that_a_model_lacks_are_refused_with_those_it_has() -> None:
    refusals = {
        ("mobilenet", "depth", 3): "--model_kwargs depth: mobilenet has no such setting; it takes none",
        ("vit_t", "depth", 3): "--model_kwargs depth: vit_t has no such setting; it takes drop_path_rate, mask_ratio",
        ("vit_t", "mask_ratio", "x"): "--model_kwargs mask_ratio=x: vit_t takes a value as 0.1",
        ("vit_t", "mask_ratio", True): "--model_kwargs mask_ratio=True: vit_t takes a value as 0.1",
        ("vit_t", "drop_path_rate", 1): "a drop rate of 1.0: must be at least 0 and below 1",
    }
    for (model, key, value), message in refusals.items():
        with pytest.raises(InputError) as error, torch.device("meta"):
            build_model(model, 8, (48, 48), {key: value})
        assert str(error.value) == message
