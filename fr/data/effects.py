"""What the DALI graph does to the pixels of an aligned face, one function an effect.

Images are [H, W, 3] uint8; `augmentation.effects` says what the parameters are. The operators are those that DALI has
for CPU and GPU alike (C12), and none draws anything by itself (C2).
"""

from collections.abc import Callable
from typing import Any

from nvidia.dali import fn


def _cutout(images: Any, boxes: Any) -> Any:
    return fn.erase(images, anchor=boxes[0], shape=boxes[1], axis_names="HW", fill_value=0)


# In the order in which they are applied.
EFFECTS: dict[str, Callable[[Any, Any], Any]] = {"cutout": _cutout, "blur": fn.filter}
