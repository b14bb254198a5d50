"""Meters: counts of skipped steps, recent losses and rollbacks; stored in snapshots for exact resuming."""

import math
import statistics
from typing import Any

import torch

_REMEMBERED = 20  # losses of log records; spikes are relative to their median
_ENOUGH = 5
MOST_RETURNS = 3  # in a row


class Meters:
    """Counts from step to step.

    skipped, in_a_row: steps without a finite gradient since the last log record, and consecutive ones up to now, not
    counting those that the loss scale explains; scalars on the device.
    losses: of the last log records. returns: consecutive spikes after which earlier weights were restored.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.load({})

    def load(self, stored: dict[str, Any]) -> None:
        """Set the counts from `as_dict`; missing ones become 0 or empty."""
        self.skipped = torch.tensor(float(stored.get("skipped", 0)), device=self._device)
        self.in_a_row = torch.tensor(float(stored.get("in_a_row", 0)), device=self._device)
        self.losses: list[float] = [*stored.get("losses", [])]
        self.returns = int(stored.get("returns", 0))

    def as_dict(self) -> dict[str, Any]:
        """The counts as builtins."""
        return {
            "skipped": self.skipped.item(),
            "in_a_row": self.in_a_row.item(),
            "losses": [*self.losses],
            "returns": self.returns,
        }

    def count(self, skipped: torch.Tensor, explained: torch.Tensor | float = 0.0) -> None:
        """Count a step. skipped: 1 or 0. explained: 1 if the loss scale may be the cause, else 0."""
        self.in_a_row = (self.in_a_row + 1 - explained) * skipped
        self.skipped = self.skipped + skipped

    def logged(self, loss: float) -> None:
        """Add a loss, and reset the counts for the next log record."""
        self.skipped = torch.zeros_like(self.skipped)
        self.returns = 0
        if math.isfinite(loss):
            self.losses = [*self.losses, loss][-_REMEMBERED:]

    def returned(self) -> None:
        """Reset the counts for the next log record, after earlier weights were restored because of a spike."""
        self.skipped = torch.zeros_like(self.skipped)
        self.returns += 1

    def median(self) -> float:
        """Median of the stored losses; infinite while there are too few."""
        return statistics.median(self.losses) if len(self.losses) >= _ENOUGH else float("inf")
