"""Builders of pickles that several test files use."""

import torch

from tests.weight_files import (
    Tensors,
)

DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)


def small_tensors() -> Tensors:
    """One of each kind: types, no elements, no sides, a view with strides, two over one storage."""
    torch.manual_seed(0)
    tensors = {f"of {dtype}": torch.randint(2, (2, 3)).to(dtype) for dtype in DTYPES}
    whole = torch.randn(4, 5)
    return tensors | {
        "dw_pool.weight": torch.randn(2, 1, 8, 8),
        "conv1_extra.weight": torch.randn(4, 2, 1, 1),
        "whole": whole,
        "view": whole.t()[1:3],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
