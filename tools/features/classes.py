"""Classification of images with a head: predicted classes, accuracy and confused pairs.

n images, C classes of the head, E embedding size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fr.losses.sharded import SHORTEST
from tools.features.parts import Features

_MOST = 1 << 26  # logits per block

Indices = NDArray[np.int64]


class Classifier:
    """Head without margins: cosines, or a linear layer if it has a bias. weight [C, K · E], bias [C].

    sub_centers: K, centres a class, of which the nearest to an image counts.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, device: torch.device, sub_centers: int = 1
    ) -> None:
        weight, self._device = weight.to(device, torch.float32), device
        self._bias = None if bias is None else bias.to(device, torch.float32)
        unit = [functional.normalize(one, eps=SHORTEST) for one in weight.chunk(sub_centers, dim=1)]
        self._weights = unit if bias is None else [weight]

    def judge(self, embeddings: NDArray[np.float32], targets: Indices) -> tuple[Indices, Indices]:
        """Predicted class, and number of classes ranked before the target, [n] each.

        Of equal logits the lower class comes first. embeddings [n, E], targets [n].
        """
        step = max(1, _MOST // len(self._weights[0]))
        some = [
            self._judge(torch.from_numpy(embeddings[first : first + step]), torch.from_numpy(targets[first:][:step]))
            for first in range(0, len(targets), step)
        ]
        predicted, place = (torch.cat(parts).numpy() for parts in zip(*some, strict=True))
        return predicted, place

    def _judge(self, embeddings: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, own = embeddings.to(self._device), targets.to(self._device)[:, None]
        if self._bias is None:
            unit = functional.normalize(rows, eps=SHORTEST)
            logits = reduce(torch.maximum, (unit @ weight.T for weight in self._weights))
        else:
            logits = torch.addmm(self._bias, rows, self._weights[0].T)
        right = logits.gather(1, own)
        classes = torch.arange(logits.shape[1], device=logits.device)
        before = (logits > right) | ((logits == right) & (classes < own))
        return logits.argmax(dim=1).cpu(), before.sum(dim=1).cpu()


@dataclass(frozen=True)
class Verdicts:
    """Target, prediction and rank (classes before the target) of n images, in the order of the list."""

    target: Indices
    predicted: Indices
    place: Indices

    @classmethod
    def of(cls, rows: Sequence[Indices]) -> "Verdicts":
        """Verdicts from parts [k, 4] of some images each: row of the list, target, prediction, rank."""
        every = np.concatenate(rows)
        return cls(*every[np.argsort(every[:, 0]), 1:].T)

    def metrics(self) -> dict[str, float]:
        """Accuracies over images; mean_top1: mean over the identities' top-1."""
        within = {f"top{k}": float((self.place < k).mean()) for k in (1, 5)}
        shares = [right / count for count, right, _ in self.by_class().values()]
        return {**within, "mean_top1": float(np.mean(shares))}

    def by_class(self) -> dict[int, tuple[int, int, int]]:
        """Class → number of its images, of these correct within the first, and within the first five."""
        classes, place = np.unique(self.target, return_inverse=True)
        counts = [np.bincount(place, weights=self.place < k).astype(int) for k in (np.inf, 1, 5)]
        return dict(zip(classes.tolist(), zip(*(column.tolist() for column in counts), strict=True), strict=True))

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Most frequent confusions: class, predicted class, number of images."""
        wrong = self.place > 0
        pairs = Counter(zip(self.target[wrong].tolist(), self.predicted[wrong].tolist(), strict=True))
        return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:most]]


def judged(classifier: Classifier, features: Features, targets: Indices) -> Indices:
    """Rows [n, 4] for `Verdicts.of`; targets: class of each image of the list."""
    own = targets[features.rows]
    return np.stack([features.rows, own, *classifier.judge(features.values, own)], axis=1)


def table(verdicts: Verdicts, names: Sequence[str]) -> list[list[Any]]:
    """Table with a header and one line per identity, including its most frequent confusion."""
    worst = {target: (other, count) for target, other, count in reversed(verdicts.confused(len(verdicts.place)))}
    lines: list[list[Any]] = [["identity", "pictures", "top1", "top5", "top1_share", "taken_for", "times"]]
    for target, (count, first, five) in verdicts.by_class().items():
        other, times = worst.get(target, (-1, 0))
        mistake = [names[other], times] if times else ["", 0]
        lines.append([names[target], count, first, five, f"{first / count:.4f}", *mistake])
    return lines
