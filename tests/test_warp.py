"""The CPU's warp against bilinear interpolation written out, against DALI's operator, and taken down in mid-work."""

import gc
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def
from scipy.ndimage import gaussian_filter

from fr.data.warp import warp

SIZE = (24, 40)  # height, width
RANDOM = np.random.default_rng(0)
SIDES = [(30, 50), (1, 1), (64, 17), (24, 40), (9, 80)]
STARTS = np.array([[0, 0], [3, 1], [0, 9], [100, 20], [7, 7]], dtype=np.float32)
NO_BLUR = np.zeros(len(SIDES), dtype=np.float32)
PICTURES = [RANDOM.integers(0, 256, (*sides, 3), dtype=np.uint8) for sides in SIDES]


def matrices() -> list[np.ndarray]:
    """Output → image in DALI's coordinates: turned, scaled, moved out of the image, mirrored, left alone."""
    turned = [[0.9, -0.3, 4.2], [0.3, 0.9, -6.7]]
    far = [[1.0, 0.0, 500.0], [0.0, 1.0, 0.0]]
    mirrored = [[-1.5, 0.2, 70.0], [-0.2, 1.5, 0.3]]
    return [np.array(m, dtype=np.float32) for m in (turned, [[0.1, 0, -1], [0, 0.1, -1]], far, np.eye(2, 3), mirrored)]


def shifted() -> list[np.ndarray]:
    """The matrices as they are when the images are regions that begin at STARTS."""
    shifts = np.zeros((len(STARTS), 2, 3), dtype=np.float32)
    shifts[:, :, 2] = STARTS
    return list(np.stack(matrices()) + shifts)


def warped(device: str, threads: int, sigmas: np.ndarray = NO_BLUR) -> list[np.ndarray]:
    """By the graph's operator of a device, run on the CPU."""
    source = iter([(PICTURES, STARTS, shifted(), sigmas)])

    @pipeline_def(enable_conditionals=True, exec_dynamic=True)
    def graph() -> Any:
        images, start, matrix, sigma = fn.external_source(source=source, num_outputs=4, layout=["HWC", "", "", ""])
        return warp(images, start, matrix, sigma, SIZE, device)

    built = graph(batch_size=len(PICTURES), num_threads=threads, device_id=None, prefetch_queue_depth=1)
    (output,) = built.run()
    return [np.array(output.at(i)) for i in range(len(PICTURES))]


def interpolated(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Four neighbours by their distance; black outside. Pixel i reaches from i to i + 1."""
    out = np.zeros((*SIZE, 3))
    height, width, _ = picture.shape
    for row, column in np.ndindex(SIZE):
        x, y = matrix.astype(float) @ (column + 0.5, row + 0.5, 1) - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= i < height and 0 <= j < width:
                out[row, column] += (1 - abs(x - j)) * (1 - abs(y - i)) * picture[i, j]
    return out


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_pixel_is_interpolated_from_its_four_neighbours(threads: int) -> None:
    for picture, matrix, seen in zip(PICTURES, matrices(), warped("cpu", threads), strict=True):
        # Half a grey level of rounding; matrices in float32 move a point by 1e-5 pixels, 255 levels of noise a pixel.
        assert np.abs(interpolated(picture, matrix) - seen).max() < 0.51


def test_the_operator_of_the_gpu_gives_the_same_to_rounding() -> None:
    for ours, dalis in zip(warped("cpu", 1), warped("gpu", 1), strict=True):
        assert np.abs(ours.astype(int) - dalis).max() <= 1


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_has_a_sigma_is_blurred_before(device: str) -> None:
    sigmas = np.array([0.0, 1.0, 0.0, 2.5, 0.8], dtype=np.float32)
    blurred = [gaussian_filter(picture, (sigma, sigma, 0), mode="mirror", truncate=3) if sigma else picture
               for picture, sigma in zip(PICTURES, sigmas, strict=True)]  # fmt: skip
    for picture, matrix, seen in zip(blurred, matrices(), warped(device, 2, sigmas), strict=True):
        # Both round after the blur, OpenCV its kernel too (to 1/256), and the filters end within a pixel of each other.
        assert np.abs(interpolated(picture, matrix) - seen).max() < 3


def test_a_graph_that_is_dropped_while_python_warps_does_not_hang() -> None:
    """DALI's thread needs the interpreter for the warp while this one takes the graph down."""
    batch = (PICTURES, STARTS, shifted(), NO_BLUR)

    def source() -> Any:
        return batch

    @pipeline_def(enable_conditionals=True, exec_dynamic=True)
    def graph() -> Any:
        images, start, matrix, sigma = fn.external_source(source=source, num_outputs=4, layout=["HWC", "", "", ""])
        return warp(images, start, matrix, sigma, SIZE, "cpu")

    for runs in [0, 1, 2] * 20:
        built = graph(batch_size=len(PICTURES), num_threads=2, device_id=None, prefetch_queue_depth=2)
        for _ in range(runs):
            built.run()
        del built
    gc.collect()
