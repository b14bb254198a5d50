"""File names: as one line of UTF-8, in the forms of Unicode, of the weights in a folder."""

import os
import unicodedata
from collections.abc import Callable

HUB_WEIGHTS = "model.safetensors"  # the weights in a folder of Hugging Face's Hub


def model_file(name: str) -> str:
    """The weights in a folder in the layout of Hugging Face's Hub; anything else as it is."""
    return os.path.join(name, HUB_WEIGHTS) if os.path.isdir(name) else name


def printable(name: str) -> str:
    """A file's name as one line of UTF-8; what isn't Unicode is escaped."""
    return " ".join(name.split()).encode(errors="backslashreplace").decode()


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; a file's name that can't be read so holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def form_note(name: str, exists: Callable[[str], bool]) -> str:
    """End of a message about a missing name that exists in another Unicode form, which looks the same; "" = it doesn't.

    macOS writes é as e and an accent (NFD), most others as one character (NFC).
    """
    for form in ("NFC", "NFD") if not name.isascii() else ():
        other = unicodedata.normalize(form, name)
        if other != name and exists(other):
            return f"; it is there in another Unicode form: {other!a} ({form}), and not {name!a}"
    return ""
