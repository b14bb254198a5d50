"""Resampling of a face inside the DALI graph: DALI's operator on a GPU, OpenCV's on a CPU.

DALI's CPU operator takes four times as long for the same pixels (LOG.md).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

Array = NDArray[Any]


def warp(images: Any, start: Any, matrix: Any, sigma: Any, size: tuple[int, int], dali_device: str) -> Any:
    """Warp regions of images that begin at `start` (x, y) by matrices input → image [2, 3]: [*size, 3].

    Bilinear, black outside. sigma [pixels]: of a Gaussian filter before the warp; 0 = none. All in DALI's coordinates
    (`fr.data.graph.regions`).
    """
    if dali_device == "gpu":
        if sigma > 0:
            images = fn.gaussian_blur(images, sigma=sigma)
        matrix = fn.cat(matrix[:, :2], fn.reshape(matrix[:, 2] - start, shape=[2, 1]), axis=1)
        return fn.warp_affine(images, matrix=matrix, size=size, fill_value=0, interp_type=types.INTERP_LINEAR)
    function = _Warp(size, Pipeline.current().num_threads)
    inputs = images, start, matrix, sigma
    return fn.python_function(*inputs, function=function, batch_processing=True, output_layouts="HWC")


class _Warp:
    """OpenCV's warp of a batch in a pool of threads: DALI calls Python functions from a single thread."""

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        self._size = size
        self._warped: list[Array] = []  # reused, as new arrays cost page faults; DALI copies them before the next call
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        cv2.setNumThreads(1)  # otherwise OpenCV starts a thread per core for each image

    def __call__(
        self, images: list[Array], starts: list[Array], matrices: list[Array], sigmas: list[Array]
    ) -> list[Array]:
        """Warp a batch. Shapes of a sample: [h, w, 3] uint8, [2], [2, 3] and [] float32."""
        count = len(images)
        while len(self._warped) < count:
            self._warped.append(np.empty((*self._size, 3), dtype=np.uint8))
        # OpenCV's (0, 0) is the centre of the first pixel, DALI's its corner.
        centered = np.stack(matrices)
        centered[:, :, 2] += centered[:, :, :2].sum(axis=2) / 2 - 0.5 - np.stack(starts)
        samples = list(zip(images, centered, sigmas, self._warped, strict=False))
        part = -(-count // self._threads)
        others = [self._pool.submit(self._warp, samples[first : first + part]) for first in range(part, count, part)]
        self._warp(samples[:part])
        for other in others:
            other.result()
        return self._warped[:count]

    def _warp(self, samples: Sequence[tuple[Array, ...]]) -> None:
        for image, matrix, sigma, out in samples:
            blurred = cv2.GaussianBlur(image, (0, 0), float(sigma)) if sigma > 0 else image
            cv2.warpAffine(blurred, matrix, self._size[::-1], dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
