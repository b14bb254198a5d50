"""What the training loop counts from step to step; kept in snapshots, so that a resumed run logs and decides alike."""

import math
import statistics
from typing import Any

import torch

_REMEMBERED = 20  # losses of log records that a spike is judged by
_ENOUGH = 5
MOST_RETURNS = 3  # in a row


class Meters:
    """skipped, in_a_row: steps without a finite gradient since the last log record, and up to now, on the device.
    losses: of the last log records. returns: spikes in a row after which earlier weights were taken."""

    def __init__(self, device: torch.device, stored: dict[str, Any] | None = None) -> None:
        stored = stored or {}
        self.skipped = torch.tensor(float(stored.get("skipped", 0)), device=device)
        self.in_a_row = torch.tensor(float(stored.get("in_a_row", 0)), device=device)
        self.losses: list[float] = [*stored.get("losses", [])]
        self.returns = int(stored.get("returns", 0))

    def as_dict(self) -> dict[str, Any]:
        """Builtins alone."""
        return {
            "skipped": self.skipped.item(),
            "in_a_row": self.in_a_row.item(),
            "losses": [*self.losses],
            "returns": self.returns,
        }

    def count(self, skipped: torch.Tensor) -> None:
        """A step: 1 if it was skipped, else 0."""
        self.in_a_row = (self.in_a_row + 1) * skipped
        self.skipped = self.skipped + skipped

    def logged(self, loss: float) -> None:
        """A log record was written."""
        self.skipped = torch.zeros_like(self.skipped)
        self.returns = 0
        if math.isfinite(loss):
            self.losses = [*self.losses, loss][-_REMEMBERED:]

    def returned(self) -> None:
        """A log record was written, and its loss was the reason to take back earlier weights."""
        self.skipped = torch.zeros_like(self.skipped)
        self.returns += 1

    def median(self) -> float:
        """Of the remembered losses; infinite while there are too few to judge by."""
        return statistics.median(self.losses) if len(self.losses) >= _ENOUGH else float("inf")
