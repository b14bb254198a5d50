"""Files that are whole or as they were."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
