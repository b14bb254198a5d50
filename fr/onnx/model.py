"""Inference with an ONNX file through ONNX Runtime, and its metadata.

B images, E embedding size, H × W input.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from fr.errors import InputError, in_short
from fr.files.untrusted import open_file
from fr.preprocessing import Preprocessing

# Keys of `metadata_props` that tools/export_onnx.py writes, both JSON: Preprocessing.as_dict(), and facts about the
# network (model, embed_size, iteration, flipped_emb, with_preprocessing, l2_norm, scores, threshold if known).
CONTRACT_KEY = "face_recognition.preprocessing"
FACTS_KEY = "face_recognition.model"
_FACTS: dict[str, type] = {"model": str, "iteration": int, "flipped_emb": bool}  # facts read here
_ROUNDING = 1e-4  # of a norm; half floats have three to four digits, but few files compute in them to the end
_FATAL_ONLY = 4  # log level: ONNX Runtime also logs the errors that it raises


class OnnxModel:
    """ONNX network with a backbone's call: [B, 3, H, W] float32 → [B, E] float32 on the same device, for any B.

    A file with a fixed batch size is called as often as needed. InputError when the file can't be run, or doesn't have
    one image input [B, 3, H, W] and one output.
    preprocessing: stored in the file, else None. input_size: (H, W) where the graph fixes them.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path = path
        self._session = _open(path, device)
        try:
            self._input, self._output, shape = _image_input(path, self._session)
            stored = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: a name in it isn't UTF-8") from error
        batch, _, height, width = (side if isinstance(side, int) else None for side in shape)
        self._batch = batch
        self.input_size = (height, width) if height and width else None
        self.facts = _json(path, stored, FACTS_KEY)
        if wrong := [name for name, kind in _FACTS.items() if type(self.facts.get(name, kind())) is not kind]:
            raise InputError(f"{path}: its metadata {FACTS_KEY} is invalid: {', '.join(wrong)}")
        contract = _json(path, stored, CONTRACT_KEY)
        self.preprocessing = _contract(path, contract) if CONTRACT_KEY in stored else None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.cpu().numpy()
        size = self._batch or len(pixels)
        parts = [self._run(pixels[first : first + size], size) for first in range(0, len(pixels), size)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    def _run(self, pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        missing = size - len(pixels)
        padded = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)]) if missing else pixels
        rows: NDArray[np.float32] = self._session.run([self._output], {self._input: padded})[0]
        return rows[: len(pixels)]

    def embed_size(self, input_size: tuple[int, int]) -> int:
        """Determine E by embedding two black images of (H, W); InputError when that fails or isn't [2, E]."""
        if self.input_size not in (None, input_size):
            raise InputError(f"{self._path}: takes images of {_sides(self.input_size)}, not {_sides(input_size)}")
        try:
            rows = self(torch.zeros(2, 3, *input_size))
        except Exception as error:  # ONNX Runtime's have no common class below this one
            raise InputError(f"{self._path}: can't be run on {_sides(input_size)}: {in_short(error)}") from error
        if rows.ndim != 2 or len(rows) != 2 or rows.dtype != torch.float32:
            result = f"{rows.dtype} {list(rows.shape)}"
            raise InputError(f"{self._path}: two images give {result} instead of two rows of float32")
        return rows.shape[1]

    def has_unit_length(self, input_size: tuple[int, int]) -> bool:
        """Whether embeddings have norm 1, by those of noise of two strengths; their size must have been determined."""
        noise = torch.rand(2, 3, *input_size, generator=torch.Generator().manual_seed(0))
        norms = self(torch.stack([noise[0], 3 * noise[1]])).norm(dim=1)
        return bool(((norms - 1).abs() < _ROUNDING).all())


def _open(path: Path, device: torch.device) -> Any:
    try:
        with open_file(path):
            pass
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()  # this rank's share of the cores
    settings.log_severity_level = _FATAL_ONLY
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index}))
    try:
        return onnxruntime.InferenceSession(path, settings, providers)
    except Exception as error:  # ONNX Runtime's have no common class below this one
        raise InputError(f"{path}: not an ONNX model that can be run: {in_short(error)}") from error


def _image_input(path: Path, session: Any) -> tuple[str, str, list[int | str | None]]:
    """Names of input and output, and the input's shape (a name or None where it is dynamic)."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) == len(outputs) == 1 and inputs[0].type == "tensor(float)":
        match inputs[0].shape:
            case [_, 3 | str() | None, _, _] as shape:
                return inputs[0].name, outputs[0].name, shape
    present = ["; ".join(f"{one.name} {one.type} {one.shape}" for one in values) for values in (inputs, outputs)]
    raise InputError(
        f"{path}: needs one input of float images [batch, 3, height, width] and one output; "
        f"inputs: {present[0] or 'none'}; outputs: {present[1] or 'none'}"
    )


def _json(path: Path, stored: dict[str, str], key: str) -> dict[str, Any]:
    """Read a JSON object from the metadata; empty if there is none."""
    try:
        value = json.loads(stored.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata {key} isn't JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: its metadata {key} isn't a JSON object")
    return value


def _contract(path: Path, stored: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _sides(size: tuple[int, int] | None) -> str:
    return "×".join(map(str, size)) + " (height × width)" if size else "any size"
