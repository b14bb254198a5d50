"""Environment variables and ~ in the values of options."""

import os
import re
from collections.abc import Sequence

from fr.errors import InputError
from fr.files.names import is_unicode

# $NAME, ${NAME}, and $$ for a plain dollar sign.
_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_HOME = re.compile(r"(?:^|(?<==))~(?=/|$)")  # at the start of a path, also after `kind=` of a verification set


class UnsetVariables(InputError):
    """A value names environment variables that aren't set. names: those of the variables."""

    def __init__(self, names: Sequence[str], text: str) -> None:
        plural, verb = ("", "isn't") if len(names) == 1 else ("s", "aren't")
        listed = ", ".join(f"${name}" for name in names)
        remedy = f"before this command: export {' '.join(f'{name}=…' for name in names)}, or write $$ for a plain $"
        super().__init__(f"the environment variable{plural} {listed} in {text!r} {verb} set; {remedy}")
        self.names = names


def expand_variables(text: str) -> str:
    """Replace $NAME and ${NAME} by environment variables, $$ by $, and a leading ~ by the home folder.

    Raises UnsetVariables, and InputError on an unknown home or non-text.
    """
    named = dict.fromkeys(plain or braced for dollar, plain, braced in _VARIABLE.findall(text) if not dollar)
    if unset := [name for name in named if name not in os.environ]:
        raise UnsetVariables(unset, text)
    expanded = _VARIABLE.sub(lambda match: match[1] or os.environ[match[2] or match[3]], text)
    if "\0" in expanded or not is_unicode(expanded):
        raise InputError(f"{expanded!r} isn't UTF-8 text")
    home = os.path.expanduser("~")
    if _HOME.search(expanded) and home == "~":
        raise InputError(f"~ in {text!r}: no home folder is known; set HOME, or write the path out")
    return _HOME.sub(lambda _: home, expanded)


def unexpanded(text: str) -> str:
    """Value of an option that `expand_variables` turns into this text; not taken for an option or an @file.

    Paths that begin with ~, - or @ get `./` in front.
    """
    return ("./" if text.startswith(("~", "-", "@")) else "") + text.replace("$", "$$")
