"""Format of WebDataset's tar shards, in a folder or below a URL; `tar_shards` reads their content."""

from pathlib import Path

from fr.data.faces import LabelledFaces
from fr.data.readers.remote_shards import read_remote_tar, remote_state
from fr.data.readers.shards import shard_files
from fr.data.readers.source import Format, Source
from fr.data.readers.tar_shards import read_tar
from fr.files.remote import is_url


def _read(source: Source) -> LabelledFaces:
    if is_url(source.root):
        return read_remote_tar(source)
    return read_tar(source.data_root, source.list_file, source.aligned)


def _inputs(source: Source) -> list[Path] | str:
    return remote_state(source) if is_url(source.root) else shard_files(".tar")(source)


FORMATS = {"tar": Format(_read, _inputs)}
