"""Loss scale for fp16, which keeps gradients in the range of float16: from about 6e-8 to 65,504."""

import torch

# torch.amp.GradScaler's.
_FIRST, _GROWTH, _BACKOFF, _GROWTH_STEPS = 65_536.0, 2.0, 0.5, 2000


class LossScale:
    """Factor on the loss before the backward pass (arXiv:1710.03740, sec. 3.2), by torch.amp.GradScaler's rule.

    Halved after a step whose gradient isn't finite although its loss is, doubled after 2,000 good steps. state [2]: the
    scale, and the number of good steps since its last change; updated in place, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.state = torch.tensor([_FIRST, 0.0], device=device)

    @property
    def value(self) -> torch.Tensor:
        """The scale, a scalar."""
        return self.state[0]

    def explains(self, loss: torch.Tensor) -> torch.Tensor:
        """1 if a gradient that isn't finite may be due to the scale, else 0. loss: of the same step, unscaled."""
        return (loss.isfinite() & (self.value > 1)).float()

    def update(self, skipped: torch.Tensor, loss: torch.Tensor) -> None:
        """Update the scale after a step. skipped: 1 or 0. A step whose loss isn't finite isn't counted.

        Otherwise an image that gives NaN once an epoch would halve the scale down to 0.
        """
        before = self.state.clone()
        scale, good_steps = self.state
        counted = good_steps.int()
        torch._amp_update_scale_(scale, counted, skipped, _GROWTH, _BACKOFF, _GROWTH_STEPS)
        good_steps.copy_(counted)
        self.state.copy_(torch.where(loss.isfinite(), self.state, before))
