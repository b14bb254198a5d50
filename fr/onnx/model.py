"""Inference with an ONNX file through ONNX Runtime, and its metadata.

The preprocessing of another system's file can be stored beside it in `NAME.onnx.json`, in the form of the metadata.

B images, E embedding size, H × W input.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from fr.errors import InputError, in_short, os_error_as
from fr.files.kinds import Kind, kind_of, wrong_kind
from fr.files.model_metadata import CONTRACT_KEY, json_object, read_contract, read_facts
from fr.files.untrusted import open_file, read_text
from fr.preprocessing import Preprocessing

_DTYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_ROUNDING = 1e-4  # of a norm; half floats would need more, but few files compute the embedding in them
_FATAL_ONLY = 4  # log level: ONNX Runtime also logs the errors that it raises


class OnnxModel:
    """ONNX network with a backbone's call: [B, 3, H, W] float32 → [B, E] float32 on the same device, for any B.

    The file may have a fixed batch size, half floats, images [B, H, W, 3] and embeddings [B, E, 1, 1]. InputError if it
    can't be run, doesn't have one image input, or has several outputs that may be the embedding.
    preprocessing: stored in the file or in NAME.onnx.json, else None. input_size: (H, W) if the graph fixes them.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path = path
        self._session = _open(path, device)
        try:
            self._input = _image_input(path, self._session)
            self._output = _embedding_output(path, self._session)
            stored = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: a name in it isn't UTF-8") from error
        self._batch = self._input.batch
        self.input_size = self._input.size
        self.facts = read_facts(path, stored)
        self.preprocessing = _preprocessing(path, stored)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.cpu().numpy()
        size = self._batch or len(pixels)
        parts = [self._run(pixels[first : first + size], size) for first in range(0, len(pixels), size)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    def _run(self, pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        missing = size - len(pixels)
        padded = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)]) if missing else pixels
        images = padded.transpose(0, 2, 3, 1) if self._input.channels_last else padded
        rows = self._session.run([self._output], {self._input.name: images.astype(self._input.dtype, order="C")})[0]
        if rows.ndim > 2 and math.prod(rows.shape[2:]) == 1:
            rows = rows.reshape(rows.shape[:2])
        result: NDArray[np.float32] = rows.astype(np.float32) if rows.dtype == np.float16 else rows
        return result[: len(pixels)]

    def embed_size(self, input_size: tuple[int, int]) -> int:
        """Determine E by embedding two black images of (H, W); InputError if that fails or the result isn't [2, E]."""
        if self.input_size not in (None, input_size):
            raise InputError(f"{self._path}: takes images of {_sides(self.input_size)}, not {_sides(input_size)}")
        try:
            rows = self(torch.zeros(2, 3, *input_size))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise InputError(f"{self._path}: can't be run on {_sides(input_size)}: {in_short(error)}") from error
        if rows.ndim != 2 or len(rows) != 2 or rows.dtype != torch.float32:
            result = f"{rows.dtype} {list(rows.shape)}"
            raise InputError(f"{self._path}: two images give {result} instead of two float32 embeddings")
        return rows.shape[1]

    def has_unit_length(self, input_size: tuple[int, int]) -> bool:
        """Return True if embeddings have norm 1, tested on noise of two amplitudes. Call `embed_size` before."""
        noise = torch.rand(2, 3, *input_size, generator=torch.Generator().manual_seed(0))
        norms = self(torch.stack([noise[0], 3 * noise[1]])).norm(dim=1)
        return bool(((norms - 1).abs() < _ROUNDING).all())


def _open(path: Path, device: torch.device) -> Any:
    with os_error_as(f"{path}: can't be read"), open_file(path):
        pass
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()  # this rank's share of the cores
    settings.log_severity_level = _FATAL_ONLY
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index}))
    try:
        return onnxruntime.InferenceSession(path, settings, providers)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base class
        if not kind_of(path) and path.suffix != ".onnx":
            raise InputError(f"{path}: not a snapshot (.pt, .safetensors) or an ONNX model") from error
        said = f"{path}: not an ONNX model that can be run: {in_short(error)}"
        raise InputError(wrong_kind("an ONNX model", path, Kind.ONNX) or said) from error


@dataclass(frozen=True)
class _Images:
    """Image input of a graph. batch, size (H, W): None unless fixed. channels_last: [B, H, W, 3]."""

    name: str
    dtype: type[np.floating[Any]]
    batch: int | None
    size: tuple[int, int] | None
    channels_last: bool


def _image_input(path: Path, session: Any) -> _Images:
    inputs = session.get_inputs()
    dtype = _DTYPES.get(inputs[0].type) if len(inputs) == 1 else None
    if dtype:
        batch, *sides = (side if isinstance(side, int) else None for side in inputs[0].shape)
        match sides:
            case [3 | None as channels, height, width] if channels or width != 3:
                return _Images(inputs[0].name, dtype, batch, _size(height, width), channels_last=False)
            case [height, width, 3]:
                return _Images(inputs[0].name, dtype, batch, _size(height, width), channels_last=True)
    raise InputError(
        f"{path}: needs one input of float images, [batch, 3, height, width] or [batch, height, width, 3]; inputs: "
        f"{_listed(inputs)}; outputs: {_listed(session.get_outputs())}"
    )


def _size(height: int | None, width: int | None) -> tuple[int, int] | None:
    return (height, width) if height and width else None


def _embedding_output(path: Path, session: Any) -> str:
    """Name of the only output, or the only one of shape [B, E] or [B, E, 1, 1] with E > 1."""
    outputs = session.get_outputs()
    rows = [one for one in outputs if len(one.shape) >= 2 and one.shape[1] != 1 and {*one.shape[2:]} <= {1}]
    chosen = outputs if len(outputs) == 1 else rows
    if len(chosen) != 1:
        name = session.get_inputs()[0].name
        raise InputError(
            f"{path}: {len(outputs)} outputs, of which {len(rows)} may be the embedding: {_listed(outputs)}; keep one: "
            f"onnx.utils.extract_model({str(path)!r}, 'OUT.onnx', [{name!r}], [NAME])"
        )
    found: str = chosen[0].name
    return found


def _listed(values: Any) -> str:
    return "; ".join(f"{one.name} {one.type} {one.shape}" for one in values) or "none"


def _preprocessing(path: Path, stored: dict[str, str]) -> Preprocessing | None:
    """Preprocessing from the metadata or NAME.onnx.json; None if neither has it; InputError if both do."""
    beside = path.with_name(f"{path.name}.json")
    if CONTRACT_KEY not in stored:
        return _contract(beside, json_object(f"{beside}: the file", read_text(beside))) if beside.exists() else None
    if beside.exists():
        raise InputError(f"{beside}: {path} stores its preprocessing itself; remove this file")
    return _contract(path, read_contract(path, stored))


def _contract(path: Path, stored: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _sides(size: tuple[int, int] | None) -> str:
    return "×".join(map(str, size)) + " (height × width)" if size else "any size"
