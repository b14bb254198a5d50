"""Distillation losses: embeddings of the network compared with a trained network's, the teacher's, of the same faces.

N samples of the global batch, B of this rank, E and E_t embedding sizes of network and teacher, C_r classes of this
rank. Each loss is (sum, count) over this rank's terms, as in `fr/losses/auxiliary.py`; the count of `logit_loss` is the
number of samples.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F

from fr.losses.collectives import sum_over_ranks
from fr.losses.sharded import SHORTEST, Shard, logits_to

Part = tuple[torch.Tensor, torch.Tensor]


def cosine_loss(embeddings: torch.Tensor, teachers: torch.Tensor) -> Part:
    """1 - cos(x_i, t_i) of embeddings [B, E] and the teacher's [B, E]."""
    return _part(1 - F.cosine_similarity(embeddings, teachers, eps=SHORTEST))


def mse_loss(embeddings: torch.Tensor, teachers: torch.Tensor) -> Part:
    """Squared difference of each number of embeddings [B, E] and the teacher's [B, E]."""
    return _part((embeddings - teachers) ** 2)


def relation_loss(unit: torch.Tensor, teachers: torch.Tensor, own: slice) -> Part:
    """(cos(x_i, x_j) - cos(t_i, t_j))² over the pairs i ≠ j, i of this rank: relational distillation with the cosine.

    unit [N, E]: of length 1. teachers [N, E_t]. Park et al., arXiv:1904.05068 eq. 4, with cosines as the potential, and
    the square in place of Huber's loss, since cosines are bounded.
    """
    unit_teachers = F.normalize(teachers, eps=SHORTEST)
    difference = unit[own] @ unit.T - unit_teachers[own] @ unit_teachers.T
    indices = torch.arange(len(unit), device=unit.device)
    others = indices[own, None] != indices
    return torch.where(others, difference, 0).square().sum(), others.sum()


def logit_loss(logits: torch.Tensor, teachers: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² KL(teacher ‖ network), summed over the N samples and this rank's classes, of logits [N, C_r] of both.

    The softmaxes are over the classes of all ranks, of the logits divided by the temperature T: Hinton et al.,
    arXiv:1503.02531 sec. 2. The factor T² keeps the gradients at the scale of the other losses.
    """
    with torch.no_grad():
        wanted = _log_softmax(teachers / temperature)
    divergence = wanted.exp() * (wanted - _log_softmax(logits / temperature))
    return temperature**2 * divergence.sum()


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the classes of all ranks; returns this rank's part [N, C_r]."""
    largest = logits.new_full((len(logits),), -torch.inf)
    if logits.shape[1]:
        largest = logits.detach().amax(dim=1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    shifted = logits - largest[:, None]
    return shifted - sum_over_ranks(shifted.exp().sum(dim=1), parts_follow=True).log()[:, None]


@dataclass(frozen=True)
class TeacherHead:
    """Head of a trained network. weight: this rank's classes, [C_r, K · E_t], linear: [C_r, E_t + 1] with a bias."""

    weight: torch.Tensor
    scale: float
    linear: bool

    @torch.no_grad()
    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits [N, C_r] of the teacher's embeddings [N, E_t], without a margin."""
        nowhere = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
        unit = F.normalize(embeddings, eps=SHORTEST)
        logits, _ = logits_to(embeddings, unit, self.weight, Shard(nowhere, nowhere.bool()), self.linear)
        return logits * self.scale


def _part(terms: torch.Tensor) -> Part:
    return terms.sum(), torch.ones_like(terms, dtype=torch.int64).sum()
