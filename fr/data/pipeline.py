"""The loaders around the DALI graph: encoded images and one matrix a sample → batches of aligned faces."""

import os
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fr import alignment
from fr.console import counted
from fr.data import nvjpeg, placement
from fr.data.faces import Faces
from fr.data.graph import as_tensors, effect_inputs, face_graph, first_pixel_graph, regions, with_teachers
from fr.data.reading import Content, ReadAhead, read_row, unreadable
from fr.data.samples import SampleBatch, plain_batches
from fr.distributed import Ranks
from fr.errors import InputError
from fr.files.images import TOO_LARGE, is_cut_off, is_too_large
from fr.files.untrusted import OutsideRoot
from fr.preprocessing import Preprocessing

# A black image of one pixel (netpbm's PPM), in the rows of images that can't be read: DALI takes it, so its graph goes
# on working, and the batch is never shown.
_PLACEHOLDER = np.frombuffer(b"P6 1 1 255\n" + bytes(3), dtype=np.uint8)


@dataclass(frozen=True)
class DaliSettings:
    """Device and threads of DALI. device: `cpu` or `gpu`; gpu: index of the GPU, None without one."""

    device: str
    gpu: int | None
    threads: int

    def describe(self) -> str:
        """The place of decoding, as a line to print."""
        if self.device == "cpu":
            return f"images are decoded on the CPU, {counted(self.threads, 'thread')} a rank"
        version = ".".join(map(str, nvjpeg.version())) or "unknown"
        fancy = "" if nvjpeg.decodes_fancy_regions() else ", without fancy upsampling, which needs 13.2"
        return f"images are decoded on the GPU by nvJPEG {version}{fancy}"


class Undecodable(InputError):
    """Images of a batch that can't be read, placed or decoded. rows: row of the batch → problem; empty when DALI fails
    on the batch and on none of its images alone.

    Run no other graph while it is handled: DALI keeps exceptions in cycles, and theirs refer to the one handled, whose
    frames refer to the failed graph.
    """

    def __init__(self, rows: dict[int, str], dali_error: object = None) -> None:
        super().__init__(*(rows.values() or [f"DALI failed: {dali_error}"]))
        self.rows = rows


class Pending(NamedTuple):
    """A batch that DALI has been given. problems: row → error of an image that can't be read or placed."""

    samples: SampleBatch
    problems: dict[int, InputError]


class _Prepared(NamedTuple):
    inputs: dict[str, Any]  # of `face_graph`, by name
    pending: Pending


class FaceStream:
    """Aligned faces of batches of samples: iterate for images [N, 3, H, W] float32 on DALI's device, and indices [N].

    The graph is up to `ahead` - 1 batches ahead, and other threads draw and read the batches after those: see
    ReadAhead. With `ahead` = 1 a batch is drawn and read when it is asked for, in this thread. Problems are raised in
    the iteration that needs the batch, as Undecodable, or as OutsideRoot, for which nothing may be substituted. The
    next iteration goes on with the next batch, unless DALI itself failed: then `broken` is set, the threads have ended,
    and the stream is of no more use. teacher: preprocessing of a second input of the same images, which `views` gives.
    """

    def __init__(
        self,
        batches: Iterator[SampleBatch],
        max_batch_size: int,
        preprocessing: Preprocessing,
        settings: DaliSettings,
        effects: tuple[str, ...] = (),
        ahead: int = 2,
        teacher: Preprocessing | None = None,
    ) -> None:
        self.broken = False
        self._preprocessing = preprocessing
        self._settings = settings
        self._effects = effects
        self._teacher = teacher
        self._pending: deque[Pending] = deque()
        self._stream = torch.cuda.current_stream(settings.gpu) if settings.device == "gpu" else None
        # The graph doesn't refer to this stream: a cycle would keep the memory of a dropped graph for long. Nor does it
        # keep the threads, since DALI's objects may refer to each other until the garbage collector comes.
        prepare = partial(_prepared, preprocessing, teacher)
        self._ahead = None if ahead == 1 else ReadAhead(batches, prepare)
        source = _taken(weakref.proxy(self._ahead), self._pending) if self._ahead else None
        self._graph = face_graph(
            source=source or graph_inputs(batches, self._pending, preprocessing, teacher),
            preprocessing=preprocessing,
            dali_device=settings.device,
            effects=effects,
            teacher=teacher,
            batch_size=max_batch_size,
            num_threads=settings.threads,
            device_id=settings.gpu if settings.device == "gpu" else None,
            prefetch_queue_depth=ahead,
        )

    def __iter__(self) -> "FaceStream":
        return self

    def __next__(self) -> tuple[torch.Tensor, NDArray[np.int64]]:
        views, indices = self.views()
        return views[0], indices

    def views(self) -> tuple[list[torch.Tensor], NDArray[np.int64]]:
        """Same as the next iteration, with the images [N, 3, H, W] of the network and, where there is one, teacher."""
        try:
            outputs = self._graph.run(self._stream) if self._stream else self._graph.run()
        except RuntimeError as error:
            if self._stream:
                self._stream.synchronize()  # raises a failure of the device itself, for which no image is to blame
            self.broken = True
            said = str(error)
        if self.broken:
            if self._ahead:
                self._ahead.close()
            if not self._pending:
                raise Undecodable({}, said)
            samples, problems = self._pending[0]
            rows = _messages(problems) | self._search(samples)
            raise Undecodable(dict(sorted(rows.items())), said)
        samples, problems = self._pending.popleft()
        if problems:
            raise Undecodable(_messages(problems))
        return [torch.from_dlpack(output.as_tensor()) for output in outputs], samples.indices

    def _search(self, batch: SampleBatch) -> dict[int, str]:
        """Row → problem of the images that DALI refuses, found by running the graph on one image at a time."""
        if len(batch.indices) == 1:
            return {0: _refusal(batch.faces, int(batch.indices[0]))}
        problems: dict[int, str] = {}
        row = 0
        while row < len(batch.indices):
            ones = (batch.row(number) for number in range(row, len(batch.indices)))
            try:
                how = self._preprocessing, self._settings, self._effects
                for _ in FaceStream(ones, 1, *how, teacher=self._teacher):
                    row += 1
            except Undecodable as failure:
                problems[row] = str(failure)
                row += 1
        return problems


def _messages(problems: dict[int, InputError]) -> dict[int, str]:
    """Row → message; raises an OutsideRoot among them."""
    for problem in problems.values():
        if isinstance(problem, OutsideRoot):
            raise problem
    return {row: str(problem) for row, problem in problems.items()}


def graph_inputs(
    batches: Iterator[SampleBatch],
    pending: deque[Pending],
    preprocessing: Preprocessing,
    teacher: Preprocessing | None = None,
) -> Iterator[dict[str, Any]]:
    """Inputs of `face_graph` by name, batch by batch; each batch is appended to `pending` with its problems.

    Images are read in this thread, when the batch is asked for.
    """
    for batch in batches:
        contents = [read_row(batch.faces, index) for index in batch.indices.tolist()]
        prepared = _prepared(preprocessing, teacher, batch, contents)
        pending.append(prepared.pending)
        yield prepared.inputs


def _taken(prepared: ReadAhead[_Prepared], pending: deque[Pending]) -> Iterator[dict[str, Any]]:
    """Same as `graph_inputs`, of batches that are read and prepared in other threads."""
    while one := next(prepared, None):
        pending.append(one.pending)
        yield one.inputs


def _prepared(
    preprocessing: Preprocessing, teacher: Preprocessing | None, batch: SampleBatch, contents: list[Content]
) -> _Prepared:
    encoded, matrices, problems = read_images(batch.faces, batch.indices, contents, preprocessing)
    inputs = {"encoded": encoded} | _view_inputs(batch, matrices, preprocessing)
    if teacher and batch.for_teacher:
        matrices, _ = placement.matrices(batch.faces, batch.indices, encoded, teacher)
        inputs = with_teachers(inputs, _view_inputs(batch.for_teacher, matrices, teacher))
    return _Prepared(as_tensors(inputs), Pending(batch, problems))


def _view_inputs(batch: SampleBatch, matrices: alignment.Array, preprocessing: Preprocessing) -> dict[str, Any]:
    """Inputs of the graph for the images of one network; matrices [N, 2, 3]: image → input, without augmentation."""
    if batch.moves is not None:
        matrices = alignment.compose(batch.moves, matrices)
    return regions(matrices, preprocessing.input_size) | effect_inputs(batch.effects)


def read_images(
    faces: Faces, indices: NDArray[np.int64], contents: list[Content], preprocessing: Preprocessing
) -> tuple[list[NDArray[np.uint8]], alignment.Array, dict[int, InputError]]:
    """Encoded images [N], matrices image → input [N, 2, 3], and row → error of images that can't be read or placed,
    or are cut off, which a GPU wouldn't notice.

    contents [N]: as of `read_row`. A placeholder stands in the rows of images with an error.
    """
    encoded: list[NDArray[np.uint8]] = []
    problems: dict[int, InputError] = {}
    for row, content in enumerate(contents):
        if isinstance(content, InputError):
            problems[row] = content
            encoded.append(_PLACEHOLDER)
        else:
            encoded.append(content)
    matrices, placed = placement.matrices(faces, indices, encoded, preprocessing)
    for row, index in enumerate(indices.tolist()):
        if row not in problems and not (placed[row] and len(encoded[row]) and not is_cut_off(encoded[row])):
            problems[row] = InputError(_unusable(faces, index, encoded[row], bool(placed[row])))
            encoded[row] = _PLACEHOLDER
    return encoded, matrices, problems


def _unusable(faces: Faces, index: int, encoded: NDArray[np.uint8], placed: bool) -> str:
    """Message about an image that can't be placed, or that DALI refuses."""
    path = faces.path(index)
    if is_too_large(encoded):
        return f"{path}: {TOO_LARGE}"
    if not placed and placement.sizes_of([encoded]).all():
        strip = f"one side is more than {placement.LONGEST} times the other"
        return f"{path}: {'the box of its face lies outside the image' if faces.boxes is not None else strip}"
    return f"{path}: can't be decoded: {'cut off, damaged, or of an unknown format' if len(encoded) else 'it is empty'}"


def _refusal(faces: Faces, index: int) -> str:
    """Message about an image that DALI refuses; it is read again."""
    try:
        return _unusable(faces, index, faces.read(index), placed=True)
    except OSError as error:
        return unreadable(faces, index, error)


def has_first_pixel(faces: Faces, index: int, settings: DaliSettings) -> bool:
    """Test if the first pixel of an image decodes; if not, no region does, since all decoders begin there."""
    try:
        encoded = faces.read(index)
    except OSError:
        return False
    graph = first_pixel_graph(
        source=iter([([encoded],)]),
        dali_device=settings.device,
        batch_size=1,
        num_threads=1,
        device_id=settings.gpu,
        prefetch_queue_depth=1,
    )
    try:
        graph.run()
    except RuntimeError:
        return False
    return True


def plain_stream(
    faces: Faces,
    indices: NDArray[np.int64],
    batch_size: int,
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> Iterator[torch.Tensor]:
    """Images of the given indices in order, aligned, without augmentation; the last batch may be smaller.

    InputError names those that can't be used: the metrics of other images would be those of another set.
    """
    for images, _ in FaceStream(plain_batches(faces, indices, batch_size), batch_size, preprocessing, settings):
        yield images


def dali_settings(device: str, threads: int, ranks: Ranks) -> DaliSettings:
    """DALI's device and threads.

    device: `auto` (that of the network), `cpu` or `gpu`. threads: of a rank; 0 = its share of the cores that this
    process may use.
    """
    on_gpu = ranks.device.type == "cuda"
    if device == "gpu" and not on_gpu:
        raise InputError("--dali_device gpu needs --device cuda; DALI works on the GPU of its rank")
    cores = max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
    device = "gpu" if on_gpu and device != "cpu" else "cpu"
    return DaliSettings(device, ranks.device.index if device == "gpu" else None, threads or cores)
