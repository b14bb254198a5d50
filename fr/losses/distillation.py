"""Distillation losses: embeddings of the network against those of a trained one, the teacher, of the same faces.

N samples of the global batch, B of this rank, E and E_t embedding sizes of network and teacher. Each function returns
(sum, count) over this rank's terms, as those of `fr/losses/auxiliary.py`.
"""

import torch
import torch.nn.functional as F

from fr.losses.sharded import SHORTEST

Part = tuple[torch.Tensor, torch.Tensor]


def cosine_loss(embeddings: torch.Tensor, teachers: torch.Tensor) -> Part:
    """1 - cos(x_i, t_i) of embeddings [B, E] and the teacher's [B, E]."""
    return _part(1 - F.cosine_similarity(embeddings, teachers, eps=SHORTEST))


def mse_loss(embeddings: torch.Tensor, teachers: torch.Tensor) -> Part:
    """Squared difference of each number of embeddings [B, E] and the teacher's [B, E]."""
    return _part((embeddings - teachers) ** 2)


def relation_loss(unit: torch.Tensor, teachers: torch.Tensor, own: slice) -> Part:
    """(cos(x_i, x_j) - cos(t_i, t_j))² over the pairs i ≠ j, i of this rank: relational distillation with the cosine.

    unit [N, E]: of length 1. teachers [N, E_t]. Park et al., arXiv:1904.05068 eq. 4, with cosines as the potential and
    the square in place of Huber's loss: cosines have a scale of their own.
    """
    unit_teachers = F.normalize(teachers, eps=SHORTEST)
    difference = unit[own] @ unit.T - unit_teachers[own] @ unit_teachers.T
    indices = torch.arange(len(unit), device=unit.device)
    others = indices[own, None] != indices
    return torch.where(others, difference, 0).square().sum(), others.sum()


def _part(terms: torch.Tensor) -> Part:
    return terms.sum(), torch.ones_like(terms, dtype=torch.int64).sum()
