"""The one resampling of a face inside the DALI graph (C3): DALI's own operator on a GPU, OpenCV's on a CPU.

DALI's CPU operator takes four times as long for the same pixels (LOG.md).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline


def warp(images: Any, matrix: Any, sigma: Any, size: tuple[int, int], dali_device: str) -> Any:
    """Pictures through matrices input → picture [2, 3], in DALI's coordinates (`regions`): [*size, 3], bilinear, black
    outside. sigma [pixels]: of the Gaussian that goes before it; 0 = none."""
    if dali_device == "gpu":
        if sigma > 0:
            images = fn.gaussian_blur(images, sigma=sigma)
        return fn.warp_affine(images, matrix=matrix, size=size, fill_value=0, interp_type=types.INTERP_LINEAR)
    to_centers = fn.reductions.sum(matrix[:, :2], axes=1) / 2 - 0.5
    matrix = fn.cat(matrix[:, :2], fn.reshape(matrix[:, 2] + to_centers, shape=[2, 1]), axis=1)
    function = _Warp(size, Pipeline.current().num_threads)
    return fn.python_function(images, matrix, sigma, function=function, batch_processing=True, output_layouts="HWC")


class _Warp:
    """OpenCV's warp of a batch, spread over threads: DALI calls Python from one of its own."""

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        self._size = size
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        cv2.setNumThreads(1)  # it would start a thread a core for each picture

    def __call__(self, *batch: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """batch: pictures [h, w, 3] uint8; matrices [2, 3] float32, with (0, 0) at the centre of the first pixel;
        sigmas [] float32."""
        samples = list(zip(*batch, strict=True))
        size = -(-len(samples) // self._threads)
        parts = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [picture for part in self._pool.map(self._part, parts) for picture in part]

    def _part(self, samples: Sequence[tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
        return [self._warped(*sample) for sample in samples]

    def _warped(self, picture: NDArray[Any], matrix: NDArray[Any], sigma: NDArray[Any]) -> NDArray[Any]:
        if sigma > 0:
            picture = cv2.GaussianBlur(picture, (0, 0), float(sigma))
        return cv2.warpAffine(picture, matrix, self._size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
