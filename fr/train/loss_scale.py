"""Loss scale of fp16, which keeps gradients in the range of a float16: from about 6e-8 to 65,504."""

import torch

# torch.amp.GradScaler's.
_FIRST, _GROWTH, _BACKOFF, _GROWTH_STEPS = 65_536.0, 2.0, 0.5, 2000


class LossScale:
    """Factor on the loss before the backward pass (arXiv:1710.03740, sec. 3.2), by torch.amp.GradScaler's rule.

    Halved after a step whose gradient isn't finite although its loss is, doubled after 2,000 others. state [2]: the
    scale, and the good steps since it last changed; it changes in place, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.state = torch.tensor([_FIRST, 0.0], device=device)

    @property
    def value(self) -> torch.Tensor:
        """The scale, a scalar."""
        return self.state[0]

    def explains(self, loss: torch.Tensor) -> torch.Tensor:
        """Whether a gradient that isn't finite can be due to the scale: 1 or 0. loss: of the same step, unscaled."""
        return (loss.isfinite() & (self.value > 1)).float()

    def update(self, skipped: torch.Tensor, loss: torch.Tensor) -> None:
        """Follow a step that was `skipped` (1, else 0); one whose loss isn't finite, whatever the scale, isn't counted.

        Otherwise an image that gives no number once an epoch would halve the scale until nothing is left of it.
        """
        before = self.state.clone()
        scale, good_steps = self.state
        counted = good_steps.int()
        torch._amp_update_scale_(scale, counted, skipped, _GROWTH, _BACKOFF, _GROWTH_STEPS)
        good_steps.copy_(counted)
        self.state.copy_(torch.where(loss.isfinite(), self.state, before))
