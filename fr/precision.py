"""Arithmetic of products (matrix products and convolutions) in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def resolved_precision(precision: str, device: torch.device) -> str:
    """One of PRECISIONS; `auto` is bf16 where the processor multiplies matrices in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16" if native else "fp32"


def allow_tf32(allowed: bool) -> None:
    """Compute float32 products on a GPU in TensorFloat-32 (10 bits of mantissa) or in IEEE float32 (23).

    torch by itself takes TF32 for convolutions and IEEE for matrix products. No effect on a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """In here, as `allow_tf32`."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(tf32)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
