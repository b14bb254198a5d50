"""Comparison of a run's options with its aligned crops, and the `crops.json` of tools/align_faces.py beside them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fr.alignment import ALIGNMENTS, TEMPLATES
from fr.data.crop_sizes import size_warning
from fr.data.faces import LabelledFaces
from fr.errors import InputError
from fr.files.remote import is_url
from fr.files.untrusted import read_text
from fr.options.parsing import Resolved

MARK = "crops.json"
_LONGEST = 1 << 20  # bytes
_TAKEN = {"template": list(TEMPLATES), "alignment": list(ALIGNMENTS)}


def with_crop_contract(resolved: Resolved) -> Resolved:
    """Options of a training, with the template and alignment of its crops, so that validation aligns the same way.

    InputError if an option contradicts `crops.json`.
    """
    options = resolved.values
    path = Path(options.train_data_root, MARK)
    if not options.aligned or not (crops := _settings(path)):
        return resolved
    taken = {name: crops[name] for name in _TAKEN if crops.get("crop") == "aligned" and name in crops}
    wrong = [f"{path}: {name} {value!r} is unknown" for name, value in taken.items() if value not in _TAKEN[name]]
    wrong += [
        f"{resolved.origins[name]}: --{name} {getattr(options, name)}: {path} says that these crops were cut with "
        f"{value}; leave --{name} out"
        for name, value in taken.items()
        if resolved.origins[name] != "default" and getattr(options, name) != value
    ]
    if wrong:
        raise InputError(*wrong)
    origins = resolved.origins | dict.fromkeys(taken, str(path))
    values = vars(options) | taken
    return replace(resolved, values=type(options)(**values), origins={name: origins[name] for name in values})


def crop_notes(root: str, aligned: bool) -> list[str]:
    """Lines about crops that show another region than the validation's alignment."""
    crops = _settings(Path(root, MARK)) if aligned else {}
    if crops.get("crop") == "loose":
        return [f"{root}: loose crops, but sets with landmarks are aligned for the validation: give it crops too"]
    if crops.get("margin"):
        beyond = f"crops show {crops['margin']:g} of the frame beyond the template on each side"
        return [f"{root}: {beyond}, the validation's alignment doesn't"]
    return []


def photograph_warnings(faces: LabelledFaces, root: str, aligned: bool) -> list[str]:
    """A line if images given as aligned crops, without `crops.json`, may be photographs; none about data at a URL."""
    if not aligned or is_url(root) or _settings(Path(root, MARK)) or not (why := size_warning(faces)):
        return []
    remedy = "photographs need landmarks, which tools/detect_faces.py finds"
    return [f"--aligned: the images are taken for aligned crops, but {why}; {remedy}"]


def _settings(path: Path) -> dict[str, Any]:
    """Settings of the crops; empty if there is no such file. InputError for an invalid file."""
    if not path.is_file():
        return {}
    try:
        crops = json.loads(read_text(path, _LONGEST))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: isn't valid JSON; write it again with tools/align_faces.py") from error
    if not isinstance(crops, dict):
        raise InputError(f"{path}: isn't a JSON object; write it again with tools/align_faces.py")
    if not isinstance(margin := crops.get("margin", 0), int | float):
        raise InputError(f"{path}: margin {margin!r} isn't a number; write it again with tools/align_faces.py")
    return crops
