"""WebDataset shards of an object store or web server: each is downloaded once to be indexed, into the cache of shards.

`--data_cache` then keeps samples, classes and landmarks until the list of shards, their sizes or their versions change.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fr.data.cache import cache_folder
from fr.data.faces import LabelledFaces
from fr.data.lines import read_lines
from fr.data.readers.shards import refuse_repeated
from fr.data.readers.source import Source
from fr.data.readers.tar_shards import Shard, index_shard, labelled
from fr.data.storage import RemoteShards
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.file_cache import FileCache
from fr.files.remote import RemoteFile, Store
from fr.progress import tracked

_DOWNLOADS = 4


def remote_state(source: Source) -> str:
    """Names, sizes and versions of the shards, as JSON."""
    return json.dumps([source.root, *_files(Store(source.root), source.list_file)])


def read_remote_tar(source: Source) -> LabelledFaces:
    """Same as `read_tar`, for shards below a URL. RemoteFailure if they can't be downloaded."""
    store, root = Store(source.root), DataRoot(_folder(source))
    files = _files(store, source.list_file)
    cache = FileCache(root.path, source.cache_bytes)
    largest = max(files, key=lambda file: file.size)
    if _DOWNLOADS * largest.size > cache.most:
        raise InputError(
            f"--shard_cache_gb {cache.most / 1e9:g}: {_DOWNLOADS} shards, which are read at a time, take "
            f"{_DOWNLOADS * largest.size / 1e9:.1f} GB: give as much or more"
        )

    def index(file: RemoteFile) -> Shard:
        return cache.fetch(store, file, lambda path: index_shard(path, root, f"{store.url}/{file.name}"))

    shown = os.environ.get("LOCAL_RANK", "0") == "0"
    with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="index") as pool:
        waiting = [pool.submit(index, file) for file in files]
        try:
            parts = [one.result() for one in tracked(waiting, "shard", "downloading shards", shown=shown)]
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure the other shards aren't downloaded
    counts = [len(part.names) for part in parts]
    storage = RemoteShards(
        [file.name for file in files],
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        store.url,
        np.array([file.size for file in files], dtype=np.int64),
        [file.version for file in files],
        cache.most,
    )
    return labelled(root, parts, storage, source.aligned, store.url)


def _folder(source: Source) -> Path:
    """The folder of --shard_cache; auto = `shards` in the user's cache folder."""
    folder = cache_folder("auto") if source.cache == "auto" else Path(source.cache)
    if not folder:
        raise InputError("--shard_cache auto: this user has no home folder; give a folder")
    return folder / "shards" if source.cache == "auto" else folder


def _files(store: Store, list_file: str) -> list[RemoteFile]:
    if not list_file and store.url.lower().startswith("http"):
        raise InputError(f"--train_data_root {store.url}: a web server doesn't list its files: give --train_list")
    if not list_file:
        files = store.find(".tar")
        if not files:
            raise InputError(f"--train_data_root {store.url}: no *.tar in it or below, or no such folder")
        return files
    lines = read_lines(Path(list_file))
    names = lines.paths(lines.texts, DataRoot(Path("/"))).to_pylist()
    refuse_repeated(lines, names)
    with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="describe") as pool:
        return list(pool.map(store.describe, names))
