"""Class-sharded margin softmax: each rank keeps the centres of its share of the identities.

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size, C classes, C_r of them on this rank.

A step gathers the embeddings once and scatters their gradients once; of the logits only a few numbers per sample are
communicated. Cosines, margin and log-softmax are computed in float32, the precision of the centres, under any autocast.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from fr.distributed import rank, world_size
from fr.losses import margins
from fr.losses.auxiliary import AuxiliaryLosses, Gathered, Targets
from fr.losses.collectives import gather, gather_constant, sum_over_ranks
from fr.losses.negatives import Curriculum, Negatives, SupportVectors
from fr.losses.sampling import Exchange, drawn_count, drawn_rows
from fr.losses.sharded import PIECE, SHORTEST, Shard, cross_entropy, logits_to
from fr.options.losses import LossSettings
from fr.randomness import Purpose, uniforms

# Update rate of the running means: AdaFace's statistics and CurricularFace's t (both authors' code).
_RATE = 0.01
_ROWS_AT_A_TIME = 65_536


def shard_rows(classes: int, ranks: int, which: int) -> tuple[int, int]:
    """First class and number of classes of a rank: ⌈C / W⌉, fewer or none on the last ranks, as DTensor's Shard."""
    rows = -(-classes // ranks)
    first = min(which * rows, classes)
    return first, min(rows, classes - first)


class MarginSoftmax(nn.Module):
    """Margin softmax over C identities plus auxiliary losses: the loss of the global batch, the same on every rank.

    `weight` [C_r, E] are this rank's centres, initialised to normalised uniform draws from [-1, 1]^E that depend only
    on the seed and the class. With K sub-centres it is [C_r, K · E], the concatenated centres of each class, of which
    the nearest to an embedding counts (Deng et al., ECCV 2020). With `linear` it is [C_r, E + 1], a linear layer's
    weights and, in the last column, its bias, initialised as torch.nn.Linear's, from the same draws. Buffers hold
    running statistics of the margin type, equal on all ranks. teacher_logits: function of a teacher's embeddings
    [N, E_t] that returns its logits [N, C_r] for the same classes.
    """

    norm_mean: torch.Tensor
    norm_std: torch.Tensor
    t: torch.Tensor

    def __init__(
        self,
        classes: int,
        embed_size: int,
        settings: LossSettings,
        seed: int,
        teacher_logits: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.settings, self.seed = classes, settings, seed
        self.first, self._rows = shard_rows(classes, world_size(), rank())
        self.weight = nn.Parameter(_initial_centres(seed, self.first, self._rows, embed_size, settings))
        self._teacher_logits = teacher_logits
        # The name is part of the keys in snapshots ("head.companions.centers").
        self.companions = AuxiliaryLosses(settings, self._rows, embed_size)
        if settings.margin_type == "ada":
            self.register_buffer("norm_mean", torch.tensor(20.0))
            self.register_buffer("norm_std", torch.tensor(100.0))
        if settings.margin_type == "curricular":
            self.register_buffer("t", torch.tensor(0.0))
        self._iteration = 0
        self._drawn: torch.Tensor | None = None  # rows of the whole shard that `weight` holds during a sampled step
        self._classes_in_sum = classes
        self._exchange = Exchange()
        # State of the micro-batches of a step; outside `step` each forward pass is a step of its own.
        self._of_step: Targets | None = None
        self._before: dict[str, torch.Tensor] = {}  # running statistics at the start of the step
        self._seen: defaultdict[str, list[torch.Tensor]] | None = None  # values of the micro-batches so far

    @property
    def auxiliary(self) -> AuxiliaryLosses:
        return self.companions

    @contextmanager
    def step(self, iteration: int, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Context of an iteration's forward and backward passes and optimiser step; entered by all ranks together.

        labels [b]: of all micro-batches of this rank. With sampling, `weight` and its optimiser state hold only the
        sampled classes inside the context; the others can't change. Autograd graphs from before the context must not
        be used in it. Running statistics are updated once a step: micro-batch k uses the update by micro-batches 0 … k.
        """
        self._iteration = iteration
        self._before = {name: buffer.clone() for name, buffer in self.named_buffers(recurse=False)}
        self._seen = defaultdict(list)
        try:
            with self._sampled(iteration, labels, optimizer):
                if self.settings.min_margin_loss_weight:
                    self._of_step = self._targets(gather_constant(labels))
                yield
        finally:
            self._of_step, self._before, self._seen = None, {}, None

    @contextmanager
    def _sampled(self, iteration: int, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Context in which `weight` holds only the sampled classes; without sampling all classes."""
        rate = self.settings.sample_rate
        if rate == 1:
            yield
            return
        of_batch = gather_constant(labels) - self.first
        self._drawn = drawn_rows(self._rows, of_batch, rate, self.seed, iteration)
        shards = (shard_rows(self.classes, world_size(), which)[1] for which in range(world_size()))
        self._classes_in_sum = sum(drawn_count(rows, len(of_batch), rate) for rows in shards)
        try:
            with self._exchange.swapped_in(self.weight, optimizer.state[self.weight], self._drawn):
                yield
        finally:
            self._drawn, self._classes_in_sum = None, self.classes

    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, teachers: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Training loss and metrics of all N samples, from this rank's embeddings [B, E] and labels [B] int64.

        teachers [B, E_t]: the teacher's embeddings, for the distillation losses. Metrics: `softmax_loss`,
        `classification_accuracy`, and the value of each enabled auxiliary loss.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            batch = self._gathered(embeddings, labels, teachers)
            phi = sum_over_ranks(torch.where(batch.owned, self._with_margin(batch), 0))
            losses, correct = cross_entropy(
                batch.cosines,
                phi,
                batch.shard,
                self.settings.scale,
                self.settings.label_smoothing,
                self._classes_in_sum,
                self._negatives(batch),
            )
            if self.settings.mining_type == "focal":  # arXiv:1708.02002 eq. 4 with p = e^-loss
                losses = (-torch.expm1(-losses)).clamp_min(0).pow(self.settings.gamma) * losses
            softmax_loss = losses.mean()
            auxiliary_loss, metrics = self.auxiliary(batch, self._of_step or batch, self.weight, self._iteration)
        return self.settings.softmax_weight * softmax_loss + auxiliary_loss, {
            "softmax_loss": softmax_loss.detach(),
            "classification_accuracy": correct.mean(),
            **metrics,
        }

    def _targets(self, labels: torch.Tensor) -> Targets:
        """Positions of the classes of all ranks' samples; labels [N]: the same number from each rank."""
        row = labels - self.first
        owned = (row >= 0) & (row < self._rows)
        row = torch.where(owned, row, 0)
        column = row if self._drawn is None else torch.searchsorted(self._drawn, row)  # row 0 stays 0
        share = len(labels) // world_size()
        return Targets(labels, slice(rank() * share, (rank() + 1) * share), row, column, owned)

    def _gathered(self, embeddings: torch.Tensor, labels: torch.Tensor, teachers: torch.Tensor | None) -> Gathered:
        all_embeddings = gather(embeddings.to(self.weight.dtype))
        targets = self._targets(gather_constant(labels))
        unit = F.normalize(all_embeddings, eps=SHORTEST)
        shard = Shard(targets.column, targets.owned)
        cosines, target_cosines = logits_to(all_embeddings, unit, self.weight, shard, self.settings.linear)
        if teachers is not None:
            teachers = gather_constant(teachers.to(self.weight.dtype))
        return Gathered(
            **vars(targets),
            embeddings=all_embeddings,
            norms=torch.linalg.vector_norm(all_embeddings, dim=1),
            unit=unit,
            cosines=cosines,
            target_cosines=target_cosines,
            shard=shard,
            teachers=teachers,
            teacher_logits=None if teachers is None or not self._teacher_logits else self._teacher_logits(teachers),
        )

    @torch.no_grad()
    def rivals(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Number of other classes [n] whose logit isn't smaller than the label's, without a margin: 0 = top-1.

        embeddings [n, E], labels [n]: the same on every rank, all ranks together; outside of a step.
        """
        counts = []
        size = max(1, PIECE // max(1, shard_rows(self.classes, world_size(), 0)[1]))  # the same on all ranks
        for rows, of_rows in zip(torch.split(embeddings, size), torch.split(labels, size), strict=True):
            targets = self._targets(of_rows)
            shard = Shard(targets.column, targets.owned)
            unit = F.normalize(rows, eps=SHORTEST)
            logits, target = logits_to(rows, unit, self.weight, shard, self.settings.linear)
            target = sum_over_ranks(target)
            counts.append(sum_over_ranks((~(logits < target[:, None])).sum(dim=1)) - 1)  # less the label itself
        return torch.cat(counts)

    def _with_margin(self, batch: Gathered) -> torch.Tensor:
        """phi [N]: target cosines after the margin."""
        o, cos = self.settings, batch.target_cosines
        inputs = margins.MarginInputs(cos, batch.norms, self._iteration, self._quality)
        phi = margins.MARGINS[o.margin_type](inputs, o)
        return cos + (phi - cos).detach() if o.margin_gradient == "straight" else phi

    def _quality(self, norms: torch.Tensor) -> torch.Tensor:
        unknown = 0 * norms.sum()  # NaN if a norm isn't finite, which the clamp would hide
        norms = norms.clamp(1e-3, 100)  # as in the authors' code
        of_step = self._so_far("norms", norms + unknown)
        mean = self._moved("norm_mean", of_step.mean())
        std = self._moved("norm_std", of_step.std()) if len(of_step) > 1 else self.norm_std
        return margins.adaface_quality(norms, mean, std, self.settings.h)

    def _negatives(self, batch: Gathered) -> Negatives:
        if self.settings.mining_type == "sv":
            return SupportVectors(self.settings.t)
        if self.settings.margin_type == "curricular":
            target_cosines = sum_over_ranks(batch.target_cosines.detach())
            return Curriculum(self._moved("t", self._so_far("target_cosines", target_cosines).mean()))
        return Negatives()

    def _so_far(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Values [n] of the step's micro-batches up to this one; `values`: those of this one."""
        if self._seen is None:
            return values
        self._seen[name].append(values)
        return torch.cat(self._seen[name])

    @torch.no_grad()
    def _moved(self, name: str, seen: torch.Tensor) -> torch.Tensor:
        """Update a running mean from its value before the step, unless the result isn't finite; return a copy of it.

        It is updated in place, so that a skipped step can be undone. The copy protects tensors saved in autograd graphs
        from the next update.
        """
        running = self.get_buffer(name)
        before = self._before.get(name, running)
        moved = before + _RATE * (seen - before)
        moved = torch.where(moved.isfinite(), moved, before)
        running.copy_(moved)
        return moved


def _initial_centres(seed: int, first: int, rows: int, embed_size: int, settings: LossSettings) -> torch.Tensor:
    """Initial weight [rows, K · E], or [rows, E + 1] of a linear layer.

    Drawn in blocks: ten million classes in float64 at once would take 40 GB.
    """
    width = settings.sub_centers * embed_size + settings.linear
    initial = torch.empty(rows, width)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        block = initial[start : start + _ROWS_AT_A_TIME]
        drawn = 2 * torch.from_numpy(uniforms(seed, Purpose.HEAD, first + start, len(block), width)) - 1
        if settings.linear:
            block.copy_(drawn / embed_size**0.5)
        else:
            block.copy_(F.normalize(drawn.reshape(-1, embed_size)).view_as(block))
    return initial
