"""Resumable output folders of tools, with a file that stores their settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fr.errors import InputError, os_error_as
from fr.files.durable import replace_file
from fr.files.untrusted import read_whole

_LONGEST = 1 << 20  # bytes of a settings file


def open_folder(out: Path, mark: str, settings: dict[str, Any], what: str) -> None:
    """Create or resume a folder whose file `mark` stores the settings as JSON; what: its content, for messages.

    InputError for other settings, naming them, or for a folder with other files.
    """
    path, text = out / mark, json.dumps(settings, indent=1) + "\n"
    with os_error_as(f"--out {out}: can't be used"):
        if path.exists():
            if (stored := read_whole(path, _LONGEST)) != text.encode():
                values = _parsed(stored)
                other = ": " + ", ".join(differences(values, settings)) if values.keys() == settings.keys() else ""
                raise InputError(f"{path}: the {what} there have other settings; give another --out{other}")
        elif out.exists() and any(out.iterdir()):
            raise InputError(f"--out {out}: holds other files; give a new folder")
        else:
            out.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode())


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Differences between stored and present settings of the same names."""
    as_stored = json.loads(json.dumps(wanted))
    return [f"{name} {stored[name]!r}, not {value!r}" for name, value in as_stored.items() if stored[name] != value]


def _parsed(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; empty for anything else."""
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
