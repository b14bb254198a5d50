"""The DALI graph: encoded bytes and one matrix a sample → aligned faces.

Our order of samples and our random draws go in through `fn.external_source`; nothing inside DALI is random (C2).
Decoding reads only the region that the warp touches, and the pixels are interpolated once (C3). A picture whose header
says that it is enormous isn't decoded: the graph fails, as for one that can't be.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types

from fr import alignment
from fr.data.effects import EFFECTS
from fr.data.warp import warp
from fr.files.images import MOST_PIXELS
from fr.preprocessing import Preprocessing

_FAR = 1 << 30  # pixels; beyond any side


def regions(matrices: alignment.Array, input_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """What the warp reads: first and last corner of the region in the photograph, the matrix back, anti-aliasing.

    In DALI's coordinates, where (0, 0) is the corner of the first pixel: half a pixel from ours.
    `sigma` [N] pixels: Gaussian that takes out what the smaller output can't show; 0 where it doesn't shrink.
    """
    height, width = input_size
    back = alignment.invert(matrices)
    back[:, :, 2] += 0.5 - back[:, :, :2].sum(axis=2) / 2
    frame = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    touched = alignment.transform(back, np.broadcast_to(frame, (len(back), 4, 2)))
    shrink = np.sqrt(np.abs(np.linalg.det(back[:, :, :2])))
    # The variance of a box of `shrink` pixels less that of one pixel, which bilinear interpolation brings itself.
    sigma = np.sqrt(np.maximum(shrink**2 - 1, 0) / 12)
    sigma[shrink < 1.2] = 0  # under 20 % there is nothing to see, and the filter would be paid for
    margin = 1 + np.ceil(3 * sigma)[:, None]
    return {
        "low": np.floor(touched.min(axis=1) - margin).astype(np.float32),
        "high": np.ceil(touched.max(axis=1) + margin).astype(np.float32),
        "matrix": back.astype(np.float32),
        "sigma": sigma.astype(np.float32),
    }


def _sides(encoded: Any) -> tuple[Any, Any]:
    """Height and width of encoded pictures as stored, by their headers alone."""
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    return shape[0], shape[1]


def _region(encoded: Any, sides: tuple[Any, Any], start: Any, end: Any, dali_device: str) -> Any:
    """The pixels between two corners (x, y) of encoded pictures, as stored: landmark lists count the pixels of the
    file, so EXIF's orientation isn't applied. [H, W, 3] uint8, RGB.

    sides: of the pictures; one of more than MOST_PIXELS gets an end before its start, which DALI refuses undecoded.
    """
    height, width = sides
    too_large = height * 1.0 * width > MOST_PIXELS  # whole numbers of 64 bits may be too short for the product
    return fn.decoders.image_slice(
        encoded,
        device="mixed" if dali_device == "gpu" else "cpu",
        start=fn.cast(start, dtype=types.INT32),
        end=fn.cast(end, dtype=types.INT32) - too_large * _FAR,
        axis_names="WH",
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # on a GPU too the chroma of the CPU's decoder
        output_type=types.RGB,
    )


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def first_pixel_graph(source: Any, dali_device: str) -> Any:
    """bytes → the first pixel, [1, 1, 3] uint8."""
    (encoded,) = fn.external_source(source=source, num_outputs=1, batch=True)
    corner = types.Constant([0, 0])
    return _region(encoded, _sides(encoded), corner, corner + 1, dali_device)


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def face_graph(source: Any, preprocessing: Preprocessing, dali_device: str, effects: tuple[str, ...]) -> Any:
    """bytes, region, matrix and, of each effect, (drawn, parameters) → [N, 3, H, W] float32 in the units of
    `preprocessing`."""
    encoded, low, high, matrix, sigma, *random = fn.external_source(
        source=source, num_outputs=5 + 2 * len(effects), batch=True
    )
    sides = _sides(encoded)
    size = fn.cast(fn.stack(*reversed(sides)), dtype=types.FLOAT)
    start = math.clamp(low, 0.0, size - 1.0)
    end = math.clamp(high, start + 1.0, size)
    images = _region(encoded, sides, start, end, dali_device)
    images = warp(images, start, matrix, sigma, preprocessing.input_size, dali_device)
    for number, name in enumerate(effects):
        drawn, parameters = random[2 * number : 2 * number + 2]
        if drawn:  # an effect costs those samples alone that it befalls
            images = EFFECTS[name](images, parameters)
    if preprocessing.color_order == "bgr":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.BGR)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in preprocessing.mean],
        std=[255 * value for value in preprocessing.std],
    )
