"""Backbones prepared for training: memory, ranks, averages and groups, each against the plain form."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from fr.distributed import broadcast_buffers, resolved_precision
from fr.errors import InputError
from fr.models import build_model, undecayed
from fr.train.ema import WeightAverage
from fr.train.optimizer import build_sgd, parameter_groups, set_lr
from fr.train.replicas import (
    GlobalBatchNorm,
    Replicas,
    checkpoint_blocks,
    replicate,
    synchronise_batch_norms,
    unshared,
)

CPU = torch.device("cpu")


def small_mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("mobilenet", 16, (32, 32)).train()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Kept(TorchDispatchMode):
    """Counts convolutions, to see that blocks really run twice."""

    convolutions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.convolutions += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_checkpointed_blocks_give_the_same_bits_and_statistics() -> None:
    plain, twice = small_mobilenet(), small_mobilenet()
    checkpoint_blocks(twice)
    counts = []
    for model in (plain, twice):
        with Kept() as kept:
            model(images(4)).square().sum().backward()
        counts.append(kept.convolutions)
    assert counts[1] - counts[0] == 15 * 5  # every block's five convolutions once more
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(twice)[name], gradient), name
    # The batch statistics too: the second pass leaves no trace in them.
    assert plain.state_dict().keys() == twice.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name


def test_checkpointing_keeps_less() -> None:
    def kept_bytes(model: nn.Module) -> int:
        sizes = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(images(4))
        return sum(sizes.values())

    plain, twice = small_mobilenet(), small_mobilenet()
    checkpoint_blocks(twice)
    assert kept_bytes(twice) < 0.5 * kept_bytes(plain)


def synchronised_run(whole: torch.Tensor, wide: bool) -> dict[str, torch.Tensor]:
    """Two steps of a small network under DDP on this rank's part of the batch: its weights and statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    model.append(nn.BatchNorm1d(5, momentum=None, affine=False))
    replicas = replicate(synchronise_batch_norms(model, CPU) if wide else model, compiled=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    part = whole.chunk(dist.get_world_size())[dist.get_rank()]
    for _ in range(2):
        optimizer.zero_grad()
        replicas(part).pow(3).mean().backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_global_batch_norms_make_a_run_independent_of_the_ranks(
    world: int, run_distributed: Callable[..., list[Any]], one_rank: None
) -> None:
    whole = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    dist_free = synchronised_run(whole, wide=False)  # torch's own batch norms over the whole batch
    for states in run_distributed(world, synchronised_run, whole, True):
        assert states.keys() == dist_free.keys()
        for name, tensor in states.items():
            # Sums of 288 float32 values in another order, through two batch norms and two steps.
            torch.testing.assert_close(tensor, dist_free[name], rtol=1e-4, atol=1e-5, msg=name)


def test_ranks_differ_without_global_batch_norms(run_distributed: Callable[..., list[Any]]) -> None:
    whole = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    one, other = run_distributed(2, synchronised_run, whole, False)
    assert not torch.allclose(one["1.running_mean"], other["1.running_mean"], rtol=1e-3)


def test_a_global_batch_norm_uses_its_running_statistics_in_evaluation(one_rank: None) -> None:
    norm = nn.BatchNorm2d(3)
    norm(images(4))
    both = synchronise_batch_norms(nn.Sequential(copy.deepcopy(norm)), CPU).eval()
    assert isinstance(both[0], GlobalBatchNorm)  # type: ignore[index]
    assert torch.equal(both(images(2)), norm.eval()(images(2)))


def test_on_a_gpu_torchs_own_synchronised_batch_norm_is_taken() -> None:
    converted = synchronise_batch_norms(nn.Sequential(nn.BatchNorm2d(3)), torch.device("cuda"))
    assert type(next(iter(converted.children()))) is nn.SyncBatchNorm


def called_as_they_are() -> list[bool]:
    """Test if `replicate` leaves a backbone alone: one without a weight to train, and one with."""
    found = []
    for model in (small_mobilenet().requires_grad_(False), small_mobilenet()):
        replicas = replicate(model, compiled=False)
        found.append(replicas is model)
        with unshared(replicas):
            assert replicas(images(2)).shape == (2, 16)
    return found


@pytest.mark.parametrize(("ranks", "as_they_are"), [(1, [True, True]), (2, [True, False])])
def test_a_backbone_without_a_gradient_to_share_is_called_as_it_is(
    ranks: int, as_they_are: list[bool], run_distributed: Callable[..., list[Any]]
) -> None:
    assert run_distributed(ranks, called_as_they_are) == [as_they_are] * ranks


def steps_with_a_restart(variant: str, restart: int) -> dict[str, torch.Tensor]:
    """Three steps of a small MobileNet; before step `restart` it is replicated anew, as in a process that resumes."""
    backbone = small_mobilenet()
    if variant == "compiled":  # of less to compile, and still more than a bucket
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(3072, 96), nn.BatchNorm1d(96), nn.PReLU(), nn.Linear(96, 16))
    if variant == "checkpointed":
        checkpoint_blocks(backbone)
    if variant == "frozen":
        parameter_groups(dict(backbone.named_parameters()), ["stem*", "blocks.0.*"], [])
    optimizer = build_sgd([p for p in backbone.parameters() if p.requires_grad], 1e-4, 0.9, 0.0)
    parts = images(24).chunk(2 * dist.get_world_size())[dist.get_rank() :: dist.get_world_size()]
    random_state = torch.get_rng_state()
    for step in range(3):
        if step in (0, restart):
            replicas = replicate(backbone, compiled=variant == "compiled")
        optimizer.zero_grad()
        with unshared(replicas) if variant == "accumulated" else nullcontext():
            replicas(parts[0]).pow(3).mean().backward()
        if variant == "accumulated":
            replicas(parts[1]).pow(3).mean().backward()
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), random_state)
    broadcast_buffers(backbone)  # as before a snapshot
    return {name: tensor.detach().clone() for name, tensor in backbone.state_dict().items()}


def runs_with_and_without_a_restart(variant: str) -> list[dict[str, torch.Tensor]]:
    return [steps_with_a_restart(variant, restart) for restart in (0, 1, 2)]


@pytest.mark.parametrize(
    ("world", "variant"),
    [
        *((3, variant) for variant in ("plain", "accumulated", "checkpointed", "frozen")),
        *(pytest.param(*one, marks=pytest.mark.thorough) for one in ((4, "plain"), (3, "compiled"))),
    ],
)
def test_three_ranks_add_gradients_in_the_same_order_after_a_restart(
    world: int, variant: str, run_distributed: Callable[..., list[Any]]
) -> None:
    """The order of two summands doesn't matter; torch's own DDP differs from three on."""
    for whole, *restarted in run_distributed(world, runs_with_and_without_a_restart, variant):
        for ours in restarted:
            assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []


def bucket_sizes(kind: type[DistributedDataParallel]) -> list[str]:
    """Bytes of each of the final buckets, or nothing, as torch notes it at the second and the third step."""
    replicas = kind(build_model("mobilenet", 16, (32, 32)), gradient_as_bucket_view=True)
    sizes = []
    for _ in range(3):
        embeddings = replicas(images(2))
        sizes.append(replicas._get_ddp_logging_data().get("rebuilt_bucket_sizes", ""))
        embeddings.sum().backward()
    return sizes[1:]


def test_the_buckets_are_those_that_torch_makes_after_its_first_step(one_rank: None) -> None:
    """Several, so that the first is on its way while the backward pass goes on."""
    first, later = bucket_sizes(DistributedDataParallel)
    assert first == "" and len(later.split(",")) == 2
    assert bucket_sizes(Replicas) == [later, later]


@pytest.mark.thorough
def test_a_compiled_backbone_gives_the_same_losses_to_rounding(one_rank: None) -> None:
    def losses(compiled: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.PReLU(), nn.AvgPool2d(6), nn.Flatten(),
            nn.Linear(200, 4),
        )  # fmt: skip
        replicas, optimizer, found = replicate(model, compiled), torch.optim.SGD(model.parameters(), 0.05), []
        for _ in range(4):
            optimizer.zero_grad()
            loss = (replicas(images(4)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert next(iter(model.state_dict())) == "0.weight"  # the compiled one trains the same tensors
        return found

    plain = losses(compiled=False)
    assert len(set(plain)) == 4  # each step has moved the weights
    assert losses(compiled=True) == pytest.approx(plain, rel=1e-4)  # float32 sums in another order, four steps


@pytest.mark.parametrize(
    ("able", "wish", "precision"),
    [
        ({"amx_bf16": True}, "auto", "bf16"),
        ({"avx512_bf16": True}, "auto", "bf16"),
        ({"avx512_f": True}, "auto", "fp32"),
        ({}, "bf16", "bf16"),
        ({"amx_bf16": True}, "fp32", "fp32"),
        ({"amx_bf16": True}, "tf32", "tf32"),
    ],
)
def test_auto_takes_bf16_where_the_processor_computes_in_it(
    able: dict[str, bool], wish: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert resolved_precision(wish, CPU) == precision


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_auto_takes_fp16_on_gpus_that_have_no_bf16(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert resolved_precision("auto", torch.device("cuda", 0)) == precision


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 3)])
def test_the_average_follows_weights_and_statistics_by_the_formula(model: nn.Module) -> None:
    average = WeightAverage(model, 0.5)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for k in range(12):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor += 1 + k
        average.update(k, torch.zeros(()))
        d = min(0.5, (1 + k) / (10 + k))
        for name, tensor in model.state_dict().items():
            wanted[name] = wanted[name] * d + tensor * (1 - d) if tensor.is_floating_point() else tensor.clone()
    for name, tensor in average.model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=0)  # float32, twelve times
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


def test_groups_freeze_and_scale_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    named = {f"backbone.{name}": p for name, p in model.named_parameters()}
    groups = parameter_groups(named, ["backbone.0.*"], ["*.bias=2", "backbone.1.*=0.5"])
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert [rates[id(p)] for p in model.parameters()] == [1.0, 2.0, 0.5, 0.5]  # the later pattern counts
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]

    optimizer = build_sgd(groups, 0.1, 0.9, 0.01)
    set_lr(optimizer, 0.2)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for parameter, old, rate in zip(model.parameters(), before, [0, 0, 0.1, 0.1], strict=True):
        step = 0 * old if parameter.grad is None else rate * (parameter.grad + 0.01 * old)  # decay and all
        torch.testing.assert_close(parameter.detach(), old - step)


def test_biases_norms_and_slopes_can_be_left_without_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 2))
    groups = parameter_groups(dict(model.named_parameters()), [], ["4.*=2"], decay_all=False)
    optimizer = build_sgd(groups, 0.1, 0.0, 0.5)
    decays = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    kernel, bias, norm, shift, slope, matrix, offset = (decays[id(p)] for p in model.parameters())
    assert (kernel, matrix) == ((1.0, 0.5), (2.0, 0.5))
    assert bias == norm == shift == slope == (1.0, 0.0) and offset == (2.0, 0.0)


def test_positions_and_tokens_of_a_transformer_can_be_left_without_decay() -> None:
    with torch.device("meta"):
        model = build_model("vit_t", 16, (36, 36))
    groups = parameter_groups(dict(model.named_parameters()), [], [], False, undecayed(model))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(one)] for group in groups if "weight_decay" not in group for one in group["params"]}
    kinds = ("qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight")
    assert decayed == {
        *("patch_embed.proj.weight", "feature.0.weight", "feature.2.weight"),
        *(name for name in names.values() if name.startswith("blocks.") and name.endswith(kinds)),
    }


@pytest.mark.parametrize(("freeze", "scale"), [(["backbone.wieght"], []), ([], ["backbone.wieght=3"])])
def test_a_pattern_that_matches_nothing_is_refused(freeze: list[str], scale: list[str]) -> None:
    named = {"backbone.weight": nn.Parameter(torch.zeros(1))}
    with pytest.raises(InputError, match=r"backbone\.wieght: no parameter matches; similar: backbone\.weight"):
        parameter_groups(named, freeze, scale)
    named["head.weight"] = nn.Parameter(torch.zeros(1))
    with pytest.raises(InputError, match=r"no parameter matches; the names are from backbone\.weight to head\.weight"):
        parameter_groups(named, ["nothing"], [])


def test_freezing_all_that_the_losses_train_is_refused() -> None:
    named = {"backbone.a": nn.Parameter(torch.ones(2)), "head.weight": nn.Parameter(torch.ones(2), requires_grad=False)}
    with pytest.raises(InputError, match="nothing is left to train: --freeze matches all weights"):
        parameter_groups(named, ["backbone.*"], [])
