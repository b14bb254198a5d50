"""Export of a backbone to ONNX or a torch.export program, comparison with PyTorch, and quantisation.

B images, E embedding size, H × W input, N images to compare or calibrate with.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from fr.errors import InputError
from fr.preprocessing import Preprocessing

INPUT, OUTPUT = "images", "embeddings"
_ANY_BATCH = {INPUT: {0: torch.export.Dim("batch")}}
_LARGEST = 2**31 - 1  # bytes; protobuf's limit for one file
_BATCH = 16  # images at a time, bounds the memory


def raw_pixels(preprocessing: Preprocessing) -> Preprocessing:
    """Preprocessing for a network that normalises inside its graph: its input is RGB from 0 to 255."""
    return replace(preprocessing, color_order="rgb", mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def normalised(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Normalise RGB pixels [B, 3, H, W] from 0 to 255: colour order, mean and std."""
    ordered = pixels if preprocessing.color_order == "rgb" else pixels.flip(1)
    channels = (preprocessing.mean, preprocessing.std)
    mean, std = (torch.tensor([255 * x for x in values]).view(3, 1, 1) for values in channels)
    return (ordered - mean) / std


class Deployed(nn.Module):
    """Backbone with optional normalisation of input and output in the graph: [B, 3, H, W] → [B, E].

    normalising: preprocessing applied to RGB pixels from 0 to 255; None = outside the graph. l2_norm: embeddings of
    norm 1.
    """

    def __init__(self, backbone: nn.Module, normalising: Preprocessing | None, l2_norm: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self._normalising = normalising
        self._l2_norm = l2_norm

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inputs = normalised(images, self._normalising) if self._normalising else images
        embeddings: torch.Tensor = self.backbone(inputs)
        return F.normalize(embeddings) if self._l2_norm else embeddings


def export_program(network: nn.Module, input_size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Export a network in evaluation mode with torch.export, for any B."""
    example = torch.zeros(2, 3, *input_size)  # torch.export treats a batch of 1 as a constant
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=_ANY_BATCH)


def to_onnx(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> bytes:
    """Convert to one self-contained ONNX file for any B; InputError above protobuf's 2 GB limit."""
    exported = torch.onnx.export(
        program, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=_ANY_BATCH, verbose=False
    )
    assert exported is not None
    model = exported.model_proto
    # The exporter stores each node's source location, with paths of this machine.
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        node.ClearField("metadata_props")
    onnx.helper.set_model_props(model, metadata)
    if model.ByteSize() > _LARGEST:
        raise InputError(f"the network takes {model.ByteSize():,} bytes; one ONNX file holds {_LARGEST:,}")
    content: bytes = model.SerializeToString()
    return content


def quantise(source: Path, target: Path, inputs: torch.Tensor, metadata: dict[str, str]) -> None:
    """Quantise a file to 8-bit weights (one scale per channel) and activations (QDQ), calibrated on [N, 3, H, W]."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        # A batch norm that isn't fused into a convolution is that of the input: it is cheap, and unquantised it keeps
        # the input's precision.
        norms = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "BatchNormalization"]
        quantize_static(
            prepared,
            target,
            _Feeds(inputs),
            nodes_to_exclude=norms,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    model = onnx.load(target)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, target)


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: torch.Tensor) -> None:
        self._batches: Iterator[torch.Tensor] = iter(torch.split(inputs, _BATCH))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


@dataclass(frozen=True)
class Difference:
    """Difference between two networks' embeddings.

    cosine: largest change of the cosine of two images when one of them is embedded by the other network.
    length: largest relative change of an embedding's norm. NaN where an embedding isn't finite.
    """

    cosine: float
    length: float

    def within(self, limit: float) -> bool:
        return self.cosine <= limit and self.length <= limit  # false for NaN

    def __str__(self) -> str:
        return f"max |Δcos| {self.cosine:.1e}, max relative Δlength {self.length:.1e}"


def difference(reference: torch.Tensor, other: torch.Tensor) -> Difference:
    """Compare two networks' embeddings [N, E] of the same images."""
    if reference.shape != other.shape:
        raise InputError(f"embeddings of shape {list(other.shape)} where {list(reference.shape)} were expected")
    lengths = [rows.double().norm(dim=1, keepdim=True) for rows in (reference, other)]
    first, second = (rows.double() / length for rows, length in zip((reference, other), lengths, strict=True))
    return Difference((first @ (second - first).T).abs().max().item(), (lengths[1] / lengths[0] - 1).abs().max().item())


@torch.no_grad()
def embeddings_of(network: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Embeddings [N, E] of inputs [N, 3, H, W], in batches."""
    return torch.cat([network(batch) for batch in torch.split(inputs, _BATCH)])


def random_pixels(count: int, input_size: tuple[int, int]) -> torch.Tensor:
    """Smooth pseudo-random images, the same in each call: [N, 3, H, W] integers from 0 to 255, as float."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, input_size, mode="bilinear").mul(255).round()
