#!/usr/bin/env python3
"""Extract features of images with a snapshot or an ONNX model.

    python tools/extract_features.py --snap t.pt --out features @my_data.yml --train_dataset vgg
    python tools/extract_features.py --snap t.pt --out features --train_data_root crops --aligned --format parquet
    torchrun --nproc_per_node 4 tools/extract_features.py --snap t.onnx --out mega --format bin \\
        --file_ending _mbf.bin --train_dataset ms1m --train_data_root megaface --train_list megaface/list.txt

For images without landmarks, detect the faces first:

    python tools/detect_faces.py photographs tables
    python tools/extract_features.py --snap t.pt --out features --train_data_root photographs \\
        --train_list tables/train_list.txt --train_landmarks tables

OUT gets the features in a format of tools/features/sinks.py, features.json with the settings, and unreadable.txt.
Preprocessing and use of mirror images are the model's own unless overridden. After an interruption, run it again, on
any number of ranks: existing features are kept, and the rest has the same values.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/extract_features.py", "tools.options.extract_features:options")

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.console import counted
from fr.data.bad_images import BadImages
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.distributed import Ranks, gather_objects, open_ranks, patient_group, raise_together
from fr.errors import InputError, run_plainly
from fr.evaluation.scored_model import ScoredModel
from fr.evaluation.scoring import Embedder
from fr.files.durable import write_result
from fr.options.names import UNLABELLED
from tools.dataset.crop_files import names_below
from tools.dataset.face_names import key_of, refuse_ambiguous
from tools.dataset.marked_folder import open_folder
from tools.features.layers import feature_network
from tools.features.noises import Centroids, marked, of_facescrub, read_noises
from tools.features.parts import Extractor, Part, extract
from tools.features.sinks import (
    Columns,
    FileEach,
    OneFile,
    Sink,
    column_matrix,
    npy,
    write_npz,
    write_parquet,
    write_trillion,
)
from tools.options.extract_features import options as read_options

MARK, UNREADABLE = "features.json", "unreadable.txt"
_NORMALIZED = ("bin", "trillion")  # by default, as in face_recognition.pytorch
T = TypeVar("T")


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        embedder = Embedder.open(resolved, ranks)
        model, flip_mode = embedder.model, embedder.flip_mode
        explicit = resolved.origins["normalize"] != "default"
        normalize = options.normalize if explicit else options.format in _NORMALIZED
        network = feature_network(model, options.snap, options.layer, flip_mode, normalize)
        faces = read_on_all_ranks(vars(options), ranks)
        extractor = Extractor(network, faces, model.preprocessing, embedder.dali, options.batch_size)
        job = _job(options, faces, extractor.dimensions(ranks.device))
        parts = extractor.parts(job.rows)
        settings = _settings(options, model, faces, flip_mode, normalize)

        def begin() -> list[bool]:
            open_folder(Path(options.out), MARK, settings, "features")
            return [job.sink.is_done(part) for part in parts]

        done = _by_first(ranks, begin)
        todo = [part for part, is_done in zip(parts, done, strict=True) if not is_done]
        if ranks.is_main:
            before = len(job.rows) - sum(len(part.rows) for part in todo)
            resumed = [f"{before:,} of {len(job.rows):,} images were done before"] if before else []
            for line in (*resolved.notes, *model.overrides, *faces.notes, *resumed):
                print(line, flush=True)
        bad = BadImages(options.max_bad_images)
        extract(extractor, todo, ranks, bad, job.sink.take)
        _by_first(ranks, lambda: _finish(Path(options.out), job, parts, todo, bad))
    return 0


@dataclass(frozen=True)
class _Job:
    """Images to embed (rows), their sink, and centroids that replace the features of noisy images."""

    rows: NDArray[np.int64]
    sink: Sink
    centroids: Centroids | None = None


def _job(options: argparse.Namespace, faces: LabelledFaces, dimensions: int) -> _Job:
    """Plan the output files; InputError for images with the same output file, or one outside OUT."""
    out, every = Path(options.out), np.arange(len(faces))
    columns: Columns = {"name": faces.names}
    if options.train_dataset not in UNLABELLED:
        columns["identity"] = pa.array(faces.identities, type=pa.string()).take(pa.array(faces.labels))
    match options.format:
        case "npz":
            return _Job(every, OneFile(out / "features.npz", partial(write_npz, columns, dimensions)))
        case "parquet":
            return _Job(every, OneFile(out / "features.parquet", partial(write_parquet, columns, dimensions)))
        case "trillion":
            return _Job(every, OneFile(out / "features.bin", partial(write_trillion, dimensions)))
    names = names_below(faces)
    once = np.sort(np.unique(names, return_index=True)[1])  # a list may contain an image twice
    if options.format == "npy":
        refuse_ambiguous(names[row] for row in once.tolist())
        return _Job(once, FileEach(out, [f"{key_of(name)}.npy" for name in names], lambda _, values: npy(values)))
    targets = [f"{name}{options.file_ending}" for name in names]
    if not options.noises_list:
        return _Job(once, FileEach(out, targets, lambda _, values: column_matrix(values)))
    noises = Path(options.noises_list)
    noise = read_noises(noises, names)
    sink = FileEach(out, targets, partial(marked, noise))
    if not of_facescrub(noises):
        return _Job(once, sink)
    return _Job(once[~noise[once]], sink, Centroids(names, noise, [out / target for target in targets]))


def _settings(
    options: argparse.Namespace, model: ScoredModel, faces: LabelledFaces, flip_mode: str, normalize: bool
) -> dict[str, Any]:
    """Settings that determine the features or the files."""
    return {
        "format": options.format,
        "layer": options.layer,
        "normalize": normalize,
        "flip_mode": flip_mode or "none",
        "file_ending": options.file_ending,
        "noises_list": _sha256(options.noises_list) if options.noises_list else "",
        "batch_size": options.batch_size,
        "snap": _sha256(options.snap),
        "averaged": options.averaged,
        "preprocessing": model.preprocessing.as_dict(),
        "data": faces.fingerprint(),
    }


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_first(ranks: Ranks, do: Callable[[], T]) -> T:
    """Call on the first rank and return its result on all ranks; InputError on all if it fails."""
    value, failure = None, None
    if ranks.is_main:
        try:
            value = do()
        except InputError as error:
            failure = error
    with patient_group() as group:  # checking millions of files may take long
        raise_together(failure, "rank 0 can't continue, and prints the reason", group)
        result: list[Any] = gather_objects(value, group)
    return cast(T, result[0])


def _finish(out: Path, job: _Job, parts: list[Part], todo: list[Part], bad: BadImages) -> None:
    """Write the list of bad images, then the single file, whose presence marks a complete run."""
    problems = bad.listed + (job.centroids.write() if job.centroids else [])
    if todo or job.centroids or not (out / UNREADABLE).exists():
        write_result(out / UNREADABLE, "".join(f"{problem}\n" for problem in problems).encode())
    job.sink.finish(parts)
    unusable = f"{len(problems):,} unusable ({UNREADABLE})" if todo else "nothing was left to do"
    print(f"{out}: {counted(len(job.rows), 'image')}, {unusable}")
    print(f"wrote {job.sink.where}")


if __name__ == "__main__":
    run_plainly("tools/extract_features.py", main)
