"""The DALI graph: encoded bytes and one matrix per sample → aligned faces.

The order of samples and the random draws are inputs through `fn.external_source`; nothing inside DALI is random.
Only the region that the warp reads is decoded, and pixels are interpolated once. An image with more than MOST_PIXELS by
its header isn't decoded: the graph fails, as for an undecodable image.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.tensors import TensorCPU, TensorListCPU

from fr import alignment
from fr.data import nvjpeg
from fr.data.augmentation import EFFECTS, Effect
from fr.data.warp import warp
from fr.files.images import MOST_PIXELS
from fr.preprocessing import Preprocessing

nvjpeg.load_dalis()  # before torchvision is imported
_FAR = 1 << 30  # pixels; beyond any side
_CONVERTED = "__autograph_generated_file"  # how the names of DALI's modules begin
TEACHER = "teacher."  # prefix of the inputs for the teacher's images


def input_names(effects: tuple[str, ...], with_teacher: bool = False) -> tuple[str, ...]:
    """Names of the inputs of `face_graph`, in the order in which DALI gets them.

    `encoded` [N]: the bytes of an image; the outputs of `regions`; for each effect of `fr.data.augmentation.effects`
    `name.drawn` and `name.parameters`. With a teacher also the inputs in which its images differ.
    """
    of_view = ("matrix", "sigma", *(f"{name}.{part}" for name in effects for part in Effect._fields))
    return ("encoded", "low", "high", *of_view, *(TEACHER + name for name in of_view if with_teacher))


def effect_inputs(effects: dict[str, Effect]) -> dict[str, NDArray[Any]]:
    """Inputs of `face_graph` for the effects of a batch."""
    return {f"{name}.{part}": array for name, effect in effects.items() for part, array in effect._asdict().items()}


def with_teachers(inputs: dict[str, Any], teachers: dict[str, Any]) -> dict[str, Any]:
    """Inputs of `face_graph` with those of the teacher's images; the decoded region covers both."""
    low, high = np.minimum(inputs["low"], teachers.pop("low")), np.maximum(inputs["high"], teachers.pop("high"))
    return inputs | {"low": low, "high": high} | {TEACHER + name: value for name, value in teachers.items()}


def as_tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    """Convert the inputs to DALI's tensors, which share the memory of the arrays and keep it alive.

    Given arrays, DALI would convert them when the graph runs, in the main thread of the training. A list of arrays
    becomes a list of tensors.
    """
    return {
        name: TensorListCPU([TensorCPU(one) for one in value], contiguous=False)
        if isinstance(value, list)
        else TensorListCPU(value)
        for name, value in inputs.items()
    }


def regions(matrices: alignment.Array, input_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Regions that the warp reads, for matrices image → input [N, 2, 3].

    `low`, `high` [N, 2]: first and last corner (x, y) of the region in the image. `matrix` [N, 2, 3]: input → image.
    `sigma` [N] pixels: of the Gaussian filter against aliasing; 0 if the image isn't shrunk.
    In DALI's coordinates, where (0, 0) is the corner of the first pixel: half a pixel from those elsewhere in `fr`.
    """
    height, width = input_size
    back = alignment.invert(matrices)
    back[:, :, 2] += 0.5 - back[:, :, :2].sum(axis=2) / 2
    frame = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    touched = alignment.transform(back, np.broadcast_to(frame, (len(back), 4, 2)))
    shrink = np.sqrt(np.abs(np.linalg.det(back[:, :, :2])))
    # The variance of a box of `shrink` pixels minus that of one pixel, which bilinear interpolation contributes.
    sigma = np.sqrt(np.maximum(shrink**2 - 1, 0) / 12)
    sigma[shrink < 1.2] = 0  # below 20 % aliasing isn't visible, and the filter would cost time
    margin = 1 + np.ceil(3 * sigma)[:, None]
    return {
        "low": np.floor(touched.min(axis=1) - margin).astype(np.float32),
        "high": np.ceil(touched.max(axis=1) + margin).astype(np.float32),
        "matrix": back.astype(np.float32),
        "sigma": sigma.astype(np.float32),
    }


def _sides(encoded: Any) -> tuple[Any, Any]:
    """Height and width of encoded images as stored, by their headers alone."""
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    return shape[0], shape[1]


def _region(encoded: Any, sides: tuple[Any, Any], start: Any, end: Any, dali_device: str) -> Any:
    """Pixels between two corners (x, y) of encoded images, as stored: [H, W, 3] uint8, RGB.

    Landmarks refer to the stored pixels, so EXIF's orientation isn't applied. sides: of the images; one with more than
    MOST_PIXELS gets an end before its start, which DALI rejects without decoding.
    """
    height, width = sides
    on_gpu = dali_device == "gpu"
    too_large = height * 1.0 * width > MOST_PIXELS  # the product may overflow 64-bit integers
    return fn.decoders.image_slice(
        encoded,
        device="mixed" if on_gpu else "cpu",
        start=fn.cast(start, dtype=types.INT32),
        end=fn.cast(end, dtype=types.INT32) - too_large * _FAR,
        axis_names="WH",
        adjust_orientation=False,
        jpeg_fancy_upsampling=not on_gpu or nvjpeg.decodes_fancy_regions(),  # chroma as on a CPU, if supported
        # The hardware decoder gets no images: which it would get depends on their position in the batch, and its
        # pixels differ by a level from those of the CUDA decoder, which is faster at this image size (docs/gpu.md).
        **({"hw_decoder_load": 0.0} if on_gpu else {}),
        output_type=types.RGB,
    )


def _resized(sides: tuple[Any, Any], shorter: int) -> Any:
    """Height and width [2] of images whose shorter side becomes `shorter`, rounded as torchvision does."""
    height, width = sides
    return fn.cast(fn.stack(*(shorter * side // math.min(height, width) for side in sides)), dtype=types.FLOAT)


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def first_pixel_graph(source: Any, dali_device: str) -> Any:
    """Encoded image → its first pixel, [1, 1, 3] uint8."""
    (encoded,) = fn.external_source(source=source, num_outputs=1, batch=True)
    corner = types.Constant([0, 0])
    return _region(encoded, _sides(encoded), corner, corner + 1, dali_device)


def _without_files(build: Callable[..., Any]) -> Callable[..., Any]:
    """A function that builds a graph, and leaves no file in the temporary folder.

    DALI writes each function that it converts for the sake of an `if` to a file, imports that, and removes it at the
    interpreter's end, which a killed process doesn't reach.
    """

    @wraps(build)
    def built(*values: Any, **named: Any) -> Any:
        try:
            return build(*values, **named)
        finally:
            for name, module in [*sys.modules.items()]:
                if name.startswith(_CONVERTED) and module.__file__:
                    Path(module.__file__).unlink(missing_ok=True)

    return built


@_without_files
@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def face_graph(
    source: Any,
    preprocessing: Preprocessing,
    dali_device: str,
    effects: tuple[str, ...],
    teacher: Preprocessing | None = None,
) -> Any:
    """Batches of `input_names` → aligned faces [N, 3, H, W] float32 in the units of `preprocessing`.

    source: iterator of mappings name → tensors, from `as_tensors`. effects: enabled pixel transforms, in order.
    teacher: preprocessing of a second output from the same decoded images.
    """
    names = input_names(effects, teacher is not None)
    ordered = _in_order(source, names)
    # Without a copy: the tensors own their memory, and nothing writes to it.
    nodes = fn.external_source(source=ordered, num_outputs=len(names), batch=True, no_copy=True)
    inputs = {name: nodes[place] for place, name in enumerate(names)}
    encoded = inputs["encoded"]
    sides = _sides(encoded)
    size = fn.cast(fn.stack(*reversed(sides)), dtype=types.FLOAT)
    start = math.clamp(inputs["low"], 0.0, size - 1.0)
    end = math.clamp(inputs["high"], start + 1.0, size)
    if preprocessing.alignment == alignment.CENTER_CROP:  # then it is also the teacher's (`fr/train/teacher.py`)
        start, end = start * 0.0, math.max(end, size)
    decoded = _region(encoded, sides, start, end, dali_device)
    images = _input_images(decoded, sides, start, inputs, "", preprocessing, effects, dali_device)
    if teacher is None:
        return images
    return images, _input_images(decoded, sides, start, inputs, TEACHER, teacher, effects, dali_device)


def _input_images(
    decoded: Any,
    sides: tuple[Any, Any],
    start: Any,
    inputs: dict[str, Any],
    prefix: str,
    preprocessing: Preprocessing,
    effects: tuple[str, ...],
    dali_device: str,
) -> Any:
    """Input of a network from decoded regions.

    sides, start: size of the images and first corner of the regions. inputs: those with the prefix are used.
    """
    if preprocessing.alignment == alignment.CENTER_CROP:
        # A separate antialiased resampling before the warp; without augmentation the warp is a shift by whole pixels.
        decoded = fn.resize(decoded, size=_resized(sides, preprocessing.resized), interp_type=types.INTERP_LINEAR)
    matrix, sigma = inputs[f"{prefix}matrix"], inputs[f"{prefix}sigma"]
    images = warp(decoded, start, matrix, sigma, preprocessing.input_size, dali_device)
    for name in effects:
        drawn = inputs[f"{prefix}{name}.drawn"]
        if drawn:  # only selected samples pay for an effect
            images = EFFECTS[name](images, inputs[f"{prefix}{name}.parameters"])
    if preprocessing.color_order == "bgr":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.BGR)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in preprocessing.mean],
        std=[255 * value for value in preprocessing.std],
    )


def _in_order(source: Iterable[dict[str, Any]], names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    for inputs in source:
        yield tuple(inputs[name] for name in names)
