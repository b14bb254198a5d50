"""Types of option values: functions that convert a word, or raise an error that describes the valid values."""

import argparse
import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fr.errors import unknown
from fr.files.names import model_file
from fr.options.names import TIMM

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

Value = bool | int | float | str | list[int] | list[float] | list[str]


def checked(kind: Callable[[str], Value], wanted: str, test: Callable[..., bool]) -> Callable[[str], Value]:
    """Make an option type whose error message is the text `wanted`."""

    def convert(text: str) -> Value:
        try:
            value = kind(text)
            if (not isinstance(value, float) or math.isfinite(value)) and test(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")

    return convert


def model_name(known: Sequence[str]) -> Callable[[str], Value]:
    """Make the option type of a model: a known name, or timm/ and a name."""

    def convert(text: str) -> Value:
        if text in known or (text.startswith(TIMM) and text != TIMM):
            return text
        raise argparse.ArgumentTypeError(unknown("model", text, known))

    return convert


def snapshot_file(text: str) -> Path:
    """Option type of a snapshot, or of a folder that holds one."""
    return Path(model_file(text))


def keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Convert words KEY=VALUE to keyword arguments: numbers, true, false, none and lists; other values are text."""
    return {key: _literal(text) for key, _, text in (word.partition("=") for word in words)}


def _literal(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, ValueError):
        return text
    return list(value) if isinstance(value, tuple) else value if isinstance(value, int | float | list) else text


def is_number(word: str) -> bool:
    """Test if a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def _boolean(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise ValueError
    return BOOLEANS[text.lower()]


def _has_factor(pattern: str, _equals: str, factor: str) -> bool:
    return pattern != "" and 0 <= float(factor) < math.inf


COUNT = checked(int, "a whole number >= 1", lambda x: x >= 1)
COUNT_OR_0 = checked(int, "a whole number >= 0", lambda x: x >= 0)
CENTERS = checked(int, "a whole number in [1, 255]", lambda x: 1 <= x <= 255)  # the nearest one's index is a byte
MODEL_FILE = checked(model_file, "a text that isn't empty", lambda x: x != "")
TEXT = checked(str, "a text that isn't empty", lambda x: x != "")
WRITABLE_STORE = checked(
    str, "a folder, or a URL such as s3:// or gs://", lambda x: not x.lower().startswith(("http:", "https:"))
)
POSITIVE = checked(float, "a number > 0", lambda x: x > 0)
NOT_NEGATIVE = checked(float, "a number >= 0", lambda x: x >= 0)
PROBABILITY = checked(float, "a number in [0, 1]", lambda x: 0 <= x <= 1)
BELOW_1 = checked(float, "a number in [0, 1)", lambda x: 0 <= x < 1)
AT_LEAST_1 = checked(float, "a number >= 1", lambda x: x >= 1)
FRACTION = checked(float, "a number in (0, 1)", lambda x: 0 < x < 1)
RATE = checked(float, "a number in (0, 1]", lambda x: 0 < x <= 1)
MARGIN = checked(
    lambda text: text if text == "auto" else float(text), "auto or a number >= 0", lambda x: x == "auto" or x >= 0
)
DEGREES = checked(float, "a number of degrees in [0, 180]", lambda x: 0 <= x <= 180)
ERASED = checked(float, "a number in [0.02, 1)", lambda x: 0.02 <= x < 1)
JPEG_QUALITY = checked(int, "a whole number in [1, 100]", lambda x: 1 <= x <= 100)
QUALITY = checked(int, "a whole number in [1, 99]", lambda x: 1 <= x <= 99)
SCALED = checked(str, "pattern=factor with a factor >= 0", lambda x: _has_factor(*x.rpartition("=")))
KEYWORD = checked(str, "KEY=VALUE", lambda x: x.partition("=")[0].isidentifier() and x.partition("=")[2] != "")
SEED = checked(int, "a whole number in [0, 2**32)", lambda x: 0 <= x < 2**32)
SIDE = checked(int, "a whole number >= 32", lambda x: x >= 32)
CHANNEL = checked(float, "a number", lambda x: True)
PREFIX = checked(str, "a file name without / or \\", lambda x: bool(x.strip()) and not {*"/\\"} & {*x})
# `--flag`, `--flag true` and `flag: true` switch on; `--flag false` and `flag: false` switch off.
BOOLEAN = checked(_boolean, "true or false", lambda x: True)
FLAG: dict[str, Any] = {"type": BOOLEAN, "nargs": "?", "const": True, "default": False, "metavar": "true|false"}
