"""File names as text: one line of UTF-8, or not."""

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
