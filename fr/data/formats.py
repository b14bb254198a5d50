"""Training data by --train_dataset, through the cache. `fr/options/names.py` says which file reads a format."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fr.alignment import CENTER_CROP
from fr.console import counted
from fr.data.cache import Damaged, Entry, cache_folder, state_of
from fr.data.faces import LabelledFaces, refuse, swapped_note, with_first_image
from fr.data.readers.source import Format, Source
from fr.errors import InputError
from fr.files.remote import is_url
from fr.options.names import DATASETS, UNLABELLED

_FORMATS: dict[str, Format] = {
    name: import_module(f"fr.data.readers.{form.file}").FORMATS[name] for name, form in (DATASETS | UNLABELLED).items()
}
READERS = {name: form.read for name, form in _FORMATS.items()}


def read_training_faces(options: Mapping[str, Any]) -> LabelledFaces:
    """Faces by train.py's options, from the cache if possible. options: also those stored in an old snapshot.

    InputError lists all problems of the files.
    """
    return read_cached(options, run="", keeps=True)


def read_cached(options: Mapping[str, Any], run: str, keeps: bool) -> LabelledFaces:
    """Faces by options, from the cache or written to it.

    run: id shared by the ranks of a run; "" = one rank. keeps: this rank writes to the cache.
    """
    dataset = options.get("train_dataset", "vgg")
    if dataset not in READERS:
        raise InputError(f"--train_dataset {dataset}: unknown; one of {', '.join(READERS)}")
    names = ("train_data_root", "train_list", "train_landmarks", "train_meta")
    root, list_file, landmarks, meta = (options.get(name, "") for name in names)
    aligned, allow_outside = (options.get(name, False) for name in ("aligned", "allow_outside"))
    aligned = aligned or options.get("alignment") == CENTER_CROP  # neither uses landmarks
    cache = options.get("shard_cache", "auto"), round(options.get("shard_cache_gb", 0) * 1e9)
    source = Source(root, list_file, landmarks, meta, aligned, allow_outside, *cache)
    folder = cache_folder(options.get("data_cache", "auto"))
    try:
        inputs = _FORMATS[dataset].inputs
        files = inputs(source) if inputs else run
        state = files if isinstance(files, str) else state_of(files)
    except InputError:
        state = None  # the reader reports it, together with all other problems
    if not folder or not state:
        return _read(dataset, source)
    entry = Entry(folder, json.dumps([dataset, *astuple(source)]), state)
    return _kept(entry, source) or _built(entry, partial(_read, dataset), source, keeps)


def _read(dataset: str, source: Source) -> LabelledFaces:
    """Faces from the reader; InputError for names of identities with line breaks: snapshots store one name a line."""
    faces = READERS[dataset](source)
    broken = [name for name in faces.identities if {"\n", "\r"} & {*name}]
    refuse([f"{source.root}: the identity {name!r} has a line break in its name; rename it" for name in broken])
    doubts = filter(None, [swapped_note(faces.landmarks)])
    return replace(faces, notes=(*faces.notes, *_shared_images(faces), *doubts))


def _shared_images(faces: LabelledFaces) -> list[str]:
    """A line about images that are listed under several identities; [] if there are none."""
    if faces.storage or pc.count_distinct(faces.names).as_py() == len(faces):
        return []
    coded = faces.names.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.unique(coded, return_index=True)[1][coded]
    shared = np.flatnonzero(faces.labels != faces.labels[first]).tolist()
    named = [
        f"{faces.names[i]} ({faces.identities[faces.labels[first[i]]]}, {faces.identities[faces.labels[i]]})"
        for i in shared[:3]
    ]
    more = ", …" if len(shared) > 3 else ""
    listed = f"{counted(len(shared), 'image')} listed under two identities: {', '.join(named)}{more}"
    return [listed] if shared else []


def _kept(entry: Entry, source: Source) -> LabelledFaces | None:
    """Faces from the cache; None if they aren't there, or their images no longer exist."""
    try:
        kept = entry.load()
    except Damaged as error:
        print(f"{error}; reading the data again", file=sys.stderr, flush=True)
        return None
    if not kept:
        return None
    faces = _known(*kept)
    if not is_url(source.root):
        source.data_root.check_exists("--train_data_root")
    return faces if faces.storage else with_first_image(faces, "--train_data_root")


def _built(entry: Entry, reader: Callable[[Source], LabelledFaces], source: Source, keeps: bool) -> LabelledFaces:
    """Faces from the reader, mapped from their new cache entry if possible, which frees the reader's memory."""
    faces = reader(source)
    if not keeps:
        return faces
    try:
        faces = _known(*entry.store((faces, faces.fingerprint())))
    except OSError as error:
        reason = f"the data can't be kept for the next start: {error.strerror}"
        print(f"--data_cache {entry.folder}: {reason}", file=sys.stderr, flush=True)
    pa.default_memory_pool().release_unused()  # hundreds of megabytes, which Arrow keeps for later reads
    return faces


def _known(faces: LabelledFaces, fingerprint: str) -> LabelledFaces:
    faces.remember(fingerprint)
    return faces
