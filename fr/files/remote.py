"""Files of object stores and web servers by URL, through fsspec: `s3://`, `gs://`, `https://` and whatever it knows.

A failed request is repeated after WAITS_S, so that a server that is overloaded or away for minutes doesn't end a run; a
denied request is repeated only a few times, in case credentials are being renewed. s3fs, gcsfs and aiohttp are optional
packages (requirements-remote.txt), which find credentials as the store's own tools do.
"""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fr.errors import InputError, in_short
from fr.files.durable import write_whole

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before each further try
_REFUSED_TRIES = 3
_SILENT_S = 60  # a request without a byte for so long has failed
CHUNK = 8 << 20  # bytes of a request, which a failure loses
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}

Result = TypeVar("Result")


class RemoteFailure(InputError):
    """A file of a store can't be listed or read. It isn't a bad image: nothing may be substituted for it."""


class RemoteFile(NamedTuple):
    """A file below a store's root; size in bytes. version: changes with the content; "" = unknown."""

    name: str
    size: int
    version: str


def is_url(text: str) -> bool:
    """Return True if a data root is a URL, not a folder."""
    return bool(_URL.match(text))


class Store:
    """The files below a URL, or in a folder. Methods raise RemoteFailure, with the URL, if all tries failed."""

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.url = url.rstrip("/")
        protocol = url.partition("://")[0].lower()
        try:
            self._fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **_settings(protocol))
        except ImportError as error:
            package = _PACKAGES.get(protocol, in_short(error))
            remedy = "bash init_venv.sh --with remote" if package != "gcsfs" else "pip install gcsfs"
            raise RemoteFailure(f"{url}: needs the package {package}: {remedy}") from error
        except Exception as error:  # each store's package has its own exceptions for missing credentials
            raise RemoteFailure(f"{url}: can't be opened: {in_short(error)}") from error
        self._path, self._is_local = str(path).rstrip("/"), isinstance(self._fs, LocalFileSystem)
        if protocol in ("s3", "s3a"):
            self._fs.retries = 1  # botocore itself tries each request five times

    def find(self, ending: str) -> list[RemoteFile]:
        """All files below the root with that ending, by name; [] if there are none, or no such folder."""
        try:
            found: dict[str, Any] = self._tried("", lambda: self._fs.find(self._path, detail=True))
        except _Missing:
            return []
        begin = len(self._path) + 1
        files = [self._described(path[begin:], info) for path, info in found.items() if path.endswith(ending)]
        return sorted(files)

    def describe(self, name: str) -> RemoteFile:
        """Size and version of a file as they are now."""
        return self._described(name, self._tried(name, lambda: self._fs.info(self._at(name))))

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes start … end - 1 of a file."""

        def part() -> bytes:
            data: bytes = self._fs.cat_file(self._at(name), start=start, end=end)
            if len(data) != end - start:
                raise OSError(f"{len(data):,} bytes came in place of {end - start:,}; does the server know ranges?")
            return data

        return self._tried(name, part)

    def write(self, name: str, source: Path) -> None:
        """Copy a local file into the store, atomically in folders and in stores such as S3."""

        def copy() -> None:
            if not self._is_local:
                self._fs.put_file(str(source), self._at(name))
                return
            target = Path(self._at(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as file:
                write_whole(target, lambda out: shutil.copyfileobj(file, out, CHUNK))

        self._tried(name, copy)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._tried(name, lambda: self._fs.rm_file(self._at(name)))

    def modified(self, name: str) -> float:
        """Modification time of a file [s since 1970]."""
        written: float = self._tried(name, lambda: self._fs.modified(self._at(name)).timestamp())
        return written

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _described(self, name: str, info: dict[str, Any]) -> RemoteFile:
        if not isinstance(info.get("size"), int):
            raise RemoteFailure(f"{self.url}/{name}: the server doesn't tell its size")
        keys = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime")
        version = next((str(info[key]) for key in keys if info.get(key)), "")
        return RemoteFile(name, info["size"], version)

    def _tried(self, name: str, act: Callable[[], Result]) -> Result:
        url, start, refused = f"{self.url}/{name}".rstrip("/"), time.monotonic(), 0
        for wait in (*WAITS_S, None):
            try:
                return act()
            except Exception as raised:  # each store's package has its own exceptions
                error = _actual_error(raised)
                if isinstance(error, FileNotFoundError):
                    raise _Missing(f"{url}: no such file there") from error
                refused += isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)
                if refused >= _REFUSED_TRIES:
                    advice = "are the credentials there, and still valid, and may they read this?"
                    raise RemoteFailure(f"{url}: refused: {in_short(error)}; {advice}") from error
                if wait is None:
                    tries = f"{len(WAITS_S) + 1} tries in {time.monotonic() - start:.0f} s"
                    last = in_short(error) or type(error).__name__
                    raise RemoteFailure(f"{url}: {tries} failed, the last with: {last}") from error
                time.sleep(wait)
        raise AssertionError


class _Missing(RemoteFailure):
    """There is no such file."""


def _actual_error(error: Exception) -> Exception:
    """The actual cause of an error: fsspec's HTTP file system reports any failure as a missing file."""
    cause = error.__cause__
    hidden = isinstance(cause, OSError) or getattr(cause, "status", 404) != 404
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and hidden else error


def _settings(protocol: str) -> dict[str, Any]:
    """Settings of fsspec's file systems: timeouts, and no retries beside those of `_tried`."""
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": _SILENT_S, "read_timeout": _SILENT_S, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": limits}
    if protocol in ("http", "https"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_S, sock_read=_SILENT_S)
        return {"client_kwargs": {"timeout": limit}}
    return {}
