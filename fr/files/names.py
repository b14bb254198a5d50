"""File names: printing, Unicode normal forms, and the weight file in a folder."""

import os
import unicodedata
from collections.abc import Callable

HUB_WEIGHTS = "model.safetensors"  # weight file in a model folder of Hugging Face's Hub


def model_file(name: str) -> str:
    """The weight file of a folder in the layout of Hugging Face's Hub; any other name unchanged."""
    return os.path.join(name, HUB_WEIGHTS) if os.path.isdir(name) else name


def printable(name: str) -> str:
    """A file's name as one line of UTF-8; what isn't Unicode is escaped."""
    return " ".join(name.split()).encode(errors="backslashreplace").decode()


def is_unicode(text: str) -> bool:
    """Return True if a text can be written as UTF-8; Python reads a file name that isn't UTF-8 as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def form_note(name: str, exists: Callable[[str], bool]) -> str:
    """End of a message about a missing file whose name exists in another Unicode normal form; "" if it doesn't.

    The forms look the same: macOS writes é as e and an accent (NFD), most other systems as one character (NFC).
    """
    for form in ("NFC", "NFD") if not name.isascii() else ():
        other = unicodedata.normalize(form, name)
        if other != name and exists(other):
            return f"; it is there in another Unicode form: {other!a} ({form}), and not {name!a}"
    return ""
