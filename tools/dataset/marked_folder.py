"""Folders that a tool fills over interruptions, with a file in them that says by what settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fr.errors import InputError
from fr.files.durable import replace_file
from fr.files.untrusted import read_whole

_LONGEST = 1 << 20  # bytes of a mark


def open_folder(out: Path, mark: str, settings: dict[str, Any], what: str) -> None:
    """Begin or go on with a folder whose file `mark` holds the settings, as JSON; what: it holds, for people.

    InputError when they are others there, and which; or when the folder holds anything else.
    """
    path, text = out / mark, json.dumps(settings, indent=1) + "\n"
    try:
        if path.exists():
            if (stored := read_whole(path, _LONGEST)) != text.encode():
                found = _parsed(stored)
                other = ": " + ", ".join(differences(found, settings)) if found.keys() == settings.keys() else ""
                raise InputError(f"{path}: the {what} there have other settings; give another --out{other}")
        elif out.exists() and any(out.iterdir()):
            raise InputError(f"--out {out}: holds other files; give a new folder")
        else:
            out.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode())
    except OSError as error:
        raise InputError(f"--out {out}: can't be used: {error.strerror}") from error


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What JSON holds otherwise than wanted, of the same names."""
    as_stored = json.loads(json.dumps(wanted))
    return [f"{name} {stored[name]!r}, not {value!r}" for name, value in as_stored.items() if stored[name] != value]


def _parsed(content: bytes) -> dict[str, Any]:
    """Empty for what isn't a JSON object."""
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
