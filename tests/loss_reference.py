"""The losses as the papers write them: float64, one process, all centres, every cosine normalised and arccos'd openly.

Nothing of fr's arithmetic is used. θ [N]: angle between an embedding and the centre of its class.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from fr.distributed import rank
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.options.losses import LossSettings

EMBED_SIZE = 6
BATCH = 12  # divides by 1, 2, 3 and 4
PAPER_MARGIN = {"cos": 0.35, "arc": 0.5, "sphere": 4.0, "sphere_r": 1.5, "ada": 0.4, "curricular": 0.5}

# What a margin type remembers of earlier batches, before the first of them.
Memory = dict[str, torch.Tensor]


def fresh_memory() -> Memory:
    return {name: torch.tensor(value).double() for name, value in (("mean", 20.0), ("std", 100.0), ("t", 0.0))}


def falling(angle: torch.Tensor) -> torch.Tensor:
    """SphereFace's ψ: (-1)^k cos t - 2k on [kπ, (k + 1)π], piece by piece."""
    result = angle.cos()
    for k in range(1, 12):
        result = torch.where(angle > k * math.pi, (-1) ** k * angle.cos() - 2 * k, result)
    return result


def arc(theta: torch.Tensor, m: float | torch.Tensor) -> torch.Tensor:
    m = torch.as_tensor(m, dtype=torch.float64)
    return torch.where(theta + m < math.pi, (theta + m).cos(), theta.cos() - m * m.sin())


def arc_easy(theta: torch.Tensor, m: float) -> torch.Tensor:
    return torch.where(theta < math.pi / 2, (theta + m).cos(), theta.cos())


def sphere(theta: torch.Tensor, m: float, iteration: int) -> torch.Tensor:
    weight = max(5, 1000 / (1 + 0.12 * iteration))
    return (weight * theta.cos() + falling(m * theta)) / (1 + weight)


def sphere_r(theta: torch.Tensor, m: float) -> torch.Tensor:
    return torch.where(m * theta < math.pi, (m * theta).cos(), -1)


def ada(theta: torch.Tensor, quality: torch.Tensor, m: float) -> torch.Tensor:
    g_angle, g_add = -m * quality, m * quality + m
    turned = torch.minimum(torch.maximum(theta + g_angle, torch.zeros(())), torch.tensor(math.pi).double())
    return turned.cos() - g_add


def ada_quality(lengths: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, h: float) -> torch.Tensor:
    standing = (lengths.detach() - mean) / (std + 1e-3) * h
    return torch.where(standing > 1, 1.0, torch.where(standing < -1, -1.0, standing))


def mag_margin(lengths: torch.Tensor, o: LossSettings) -> torch.Tensor:
    share = (lengths - o.l_a) / (o.u_a - o.l_a)
    inside = o.l_m + share * (o.u_m - o.l_m)
    return torch.where(lengths < o.l_a, o.l_m, torch.where(lengths > o.u_a, o.u_m, inside))


def mag_regulariser(lengths: torch.Tensor, o: LossSettings) -> torch.Tensor:
    low, high = (1 / a + a / o.u_a**2 for a in (o.l_a, o.u_a))
    inside = 1 / lengths + lengths / o.u_a**2
    return torch.where(lengths < o.l_a, low, torch.where(lengths > o.u_a, high, inside))


def remembered(o: LossSettings, memory: Memory, lengths: torch.Tensor, target: torch.Tensor) -> Memory:
    """AdaFace's and CurricularFace's running figures after one more global batch."""
    held = lengths.detach().clamp(1e-3, 100)
    return {
        "mean": 0.99 * memory["mean"] + 0.01 * held.mean(),
        "std": 0.99 * memory["std"] + 0.01 * (((held - held.mean()) ** 2).sum() / (len(held) - 1)).sqrt(),
        "t": 0.99 * memory["t"] + 0.01 * target.detach().mean(),
    }


def with_margin(
    o: LossSettings, theta: torch.Tensor, lengths: torch.Tensor, memory: Memory, iteration: int
) -> torch.Tensor:
    m = PAPER_MARGIN.get(o.margin_type, 0.0) if isinstance(o.m, str) else o.m
    forms: dict[str, Callable[[], torch.Tensor]] = {
        "softmax": theta.cos,
        "cos": lambda: theta.cos() - m,
        "arc": lambda: arc_easy(theta, m) if o.easy_margin else arc(theta, m),
        "curricular": lambda: arc(theta, m),
        "sphere": lambda: sphere(theta, m, iteration),
        "sphere_r": lambda: sphere_r(theta, m),
        "combined": lambda: falling(o.m1 * theta + o.m2) - o.m3,
        "ada": lambda: ada(theta, ada_quality(lengths.clamp(1e-3, 100), memory["mean"], memory["std"], o.h), m),
        "mag": lambda: arc(theta, mag_margin(lengths, o)),
    }
    return forms[o.margin_type]()


def reference_softmax(
    o: LossSettings,
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    memory: Memory | None = None,
    iteration: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, Memory]:
    """All embeddings [N, E], all centres [C, K · E] → mean loss, share of hits, and what is remembered afterwards.

    Of a class's K cosines the largest counts: Deng et al., ECCV 2020, sec. 3.2.
    """
    lengths = embeddings.norm(dim=1)
    centres = weight.view(len(weight), -1, embeddings.shape[1])
    of_each = torch.einsum("ne,cke->nck", embeddings / lengths[:, None], centres / centres.norm(dim=2, keepdim=True))
    cos = of_each.amax(dim=2)
    own = F.one_hot(labels, len(weight)).bool()
    target = cos[own]
    memory = remembered(o, memory or fresh_memory(), lengths, target)
    phi = with_margin(o, target.arccos(), lengths, memory, iteration)
    if o.margin_gradient == "straight":
        phi = target + (phi - target).detach()
    hard = cos > phi[:, None]
    others = cos
    if o.mining_type == "sv":
        others = torch.where(hard, o.t * cos + o.t - 1, cos)
    if o.margin_type == "curricular":
        others = torch.where(hard, cos * (memory["t"] + cos), cos)
    logits = o.s * torch.where(own, phi[:, None], others)
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=o.label_smoothing)
    if o.mining_type == "focal":
        losses = (1 - logits.softmax(dim=1)[own]) ** o.gamma * losses
    return losses.mean(), (logits.argmax(dim=1) == labels).double().mean(), memory


class Plain:
    """The auxiliary losses of one global batch, term by term."""

    def __init__(
        self, o: LossSettings, x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, iteration: int
    ) -> None:
        self.o, self.x, self.labels, self.weight, self.iteration = o, x, labels.tolist(), weight, iteration
        self.unit = [row / row.norm() for row in x]
        self.centres = [[part / part.norm() for part in row.view(-1, x.shape[1])] for row in weight]

    def others(self, i: int) -> list[int]:
        return [j for j in range(BATCH) if self.labels[j] != self.labels[i]]

    def same(self, i: int) -> list[int]:
        return [j for j in range(BATCH) if self.labels[j] == self.labels[i] and j != i]

    def to_own_centre(self, i: int) -> torch.Tensor:
        return 1 - self.cosine(i, self.labels[i])

    def cosine(self, i: int, label: int) -> torch.Tensor:
        """With the nearest centre of the class."""
        return max(self.unit[i] @ centre for centre in self.centres[label])

    def squared(self, i: int, j: int) -> torch.Tensor:
        return ((self.unit[i] - self.unit[j]) ** 2).sum()

    def center_loss(self) -> torch.Tensor:
        """From centres at 0, where they begin."""
        return torch.stack([(row**2).sum() for row in self.x]).mean()

    def push_loss(self) -> torch.Tensor:
        return mean_over_violated(
            self.o.push_margin - (1 - self.unit[i] @ self.unit[j]) for i in range(BATCH) for j in self.others(i)
        )

    def push_plus_loss(self) -> torch.Tensor:
        return mean_over_violated(
            self.o.push_margin + self.to_own_centre(i) - (1 - self.unit[i] @ self.unit[j])
            for i in range(BATCH)
            for j in self.others(i)
        )

    def global_push_loss(self) -> torch.Tensor:
        margin = 0.15 + (self.o.push_margin - 0.15) * min(self.iteration, 40_000) / 40_000
        return mean_over_violated(
            margin + self.to_own_centre(i) - (1 - self.cosine(i, j))
            for i in range(BATCH)
            for j in range(len(self.centres))
            if j != self.labels[i]
        )

    def min_margin_loss(self) -> torch.Tensor:
        return mean_over_violated(
            self.o.min_margin - (1 - self.centres[a][0] @ self.centres[b][0])
            for a, b in itertools.permutations(sorted(set(self.labels)), 2)
        )

    def triplet_loss(self) -> torch.Tensor:
        return mean(self.hard_triplets() if self.o.triplet_mining == "hard" else self.semi_hard_triplets())

    def hard_triplets(self) -> Iterable[torch.Tensor]:
        for i in range(BATCH):
            if self.same(i) and self.others(i):
                farthest = max(self.squared(i, p) for p in self.same(i))
                nearest = min(self.squared(i, n) for n in self.others(i))
                yield (self.o.triplet_margin + farthest - nearest).clamp_min(0)

    def semi_hard_triplets(self) -> Iterable[torch.Tensor]:
        for i in range(BATCH):
            away = [self.squared(i, n) for n in self.others(i)]
            for p in self.same(i) if away else []:
                distance = self.squared(i, p)
                farther = [one for one in away if one > distance]
                negative = min(farther) if farther else max(away)
                yield (self.o.triplet_margin + distance - negative).clamp_min(0)

    def magnitude_loss(self) -> torch.Tensor:
        return mag_regulariser(self.x.norm(dim=1), self.o).mean()


def mean(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    terms = list(terms)
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64)


def mean_over_violated(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return mean(term for term in terms if term > 0)


WEIGHTS = {
    "center_loss": "center_loss_weight",
    "push_loss": "push_loss_weight",
    "push_plus_loss": "push_plus_loss_weight",
    "global_push_loss": "global_push_loss_weight",
    "min_margin_loss": "min_margin_loss_weight",
    "triplet_loss": "triplet_loss_weight",
    "magnitude_loss": "lambda_g",
}


def beside(
    o: LossSettings, x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, iteration: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of the enabled auxiliary losses, and the value of each."""
    plain = Plain(o, x, labels, weight, iteration)
    factors = {name: getattr(o, option) for name, option in WEIGHTS.items()}
    if o.margin_type != "mag":
        del factors["magnitude_loss"]
    values = {name: getattr(plain, name)() for name, factor in factors.items() if factor}
    total = sum((factors[name] * value for name, value in values.items()), torch.zeros((), dtype=torch.float64))
    return total, {name: value.detach() for name, value in values.items()}


def make_case(classes: int, seed: int, sub_centers: int = 1) -> dict[str, torch.Tensor]:
    """A global batch of lengths 2 … 150: some near their (first) centre, some opposite it, the rest anywhere."""
    source = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    weight, labels = randn(classes, sub_centers * EMBED_SIZE), torch.randint(classes, (BATCH,), generator=source)
    inputs = randn(BATCH, EMBED_SIZE)
    centres = weight[labels, :EMBED_SIZE]
    inputs[:5] = inputs[:5] * 0.2 + centres[:5] * 3
    inputs[5] = -centres[5] + 0.1 * inputs[5]  # θ near π: the far side of ArcFace
    inputs *= torch.linspace(1, 30, BATCH)[torch.randperm(BATCH, generator=source), None]
    mixing = torch.eye(EMBED_SIZE, dtype=torch.float64) + 0.1 * randn(EMBED_SIZE, EMBED_SIZE)
    return {"weight": weight, "labels": labels, "inputs": inputs, "mixing": mixing}


def head_with(
    weight: torch.Tensor,
    settings: LossSettings,
    seed: int = 5,
    teacher_logits: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> MarginSoftmax:
    """This rank's part of a float64 head with the centres `weight` [C, K · E], or [C, E + 1] of a linear layer."""
    embed_size = (weight.shape[1] - settings.linear) // settings.sub_centers
    head = MarginSoftmax(len(weight), embed_size, settings, seed, teacher_logits).double()
    first, rows = shard_rows(len(weight), dist.get_world_size(), rank())
    with torch.no_grad():
        head.weight.copy_(weight[first : first + rows])
    return head


def own_part() -> slice:
    share = BATCH // dist.get_world_size()
    return slice(rank() * share, (rank() + 1) * share)


def assert_equal(got: torch.Tensor, wanted: torch.Tensor | None, what: Any = None) -> None:
    """float64 with sums in another order, cosines by arccos in the reference (1e-16 / sin θ); losses are up to 500,
    gradients up to s."""
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, msg=lambda text: f"{what}: {text}")
