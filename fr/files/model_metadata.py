"""Metadata with which an exported file describes its model: two JSON texts, the same in ONNX and safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fr.errors import InputError
from fr.preprocessing import Preprocessing

# Preprocessing.as_dict(), and facts about the network (model, embed_size, iteration, flipped_emb, scores, threshold if
# known; of ONNX files also with_preprocessing and l2_norm).
CONTRACT_KEY = "face_recognition.preprocessing"
FACTS_KEY = "face_recognition.model"
_FACTS: dict[str, type] = {"model": str, "iteration": int, "flipped_emb": bool}  # facts that `read_facts` checks


def as_strings(preprocessing: Preprocessing, facts: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file."""
    return {CONTRACT_KEY: json.dumps(preprocessing.as_dict()), FACTS_KEY: json.dumps(facts)}


def read_facts(path: Path, stored: Mapping[str, str]) -> dict[str, Any]:
    """Facts in a file's metadata, {} if there are none; InputError if they are invalid."""
    facts = json_object(f"{path}: its metadata {FACTS_KEY}", stored.get(FACTS_KEY, "{}"))
    if wrong := [name for name, kind in _FACTS.items() if type(facts.get(name, kind())) is not kind]:
        raise InputError(f"{path}: its metadata {FACTS_KEY} is invalid: {', '.join(wrong)}")
    return facts


def json_object(what: str, text: str) -> dict[str, Any]:
    """Parse a JSON object; InputError, beginning with `what` (file and place), if the text isn't one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} isn't JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{what} isn't a JSON object")
    return value


def read_contract(path: Path, stored: Mapping[str, str]) -> dict[str, Any]:
    """The stored preprocessing, unchecked; InputError when it isn't a JSON object."""
    return json_object(f"{path}: its metadata {CONTRACT_KEY}", stored[CONTRACT_KEY])
