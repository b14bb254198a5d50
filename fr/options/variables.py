"""Environment variables and ~ in the values of options."""

import os
import re

from fr.errors import InputError
from fr.files.names import is_unicode

# $NAME, ${NAME}, and $$ for a plain dollar sign.
_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_HOME = re.compile(r"(?:^|(?<==))~(?=/|$)")  # at the start of a path, also after `kind=` of a verification set


class UnsetVariable(InputError):
    """A value names an environment variable that isn't set. name: that of the variable."""

    def __init__(self, name: str, text: str) -> None:
        remedy = f"before this command: export {name}=…, or write $$ for a plain $"
        super().__init__(f"the environment variable ${name} in {text!r} isn't set; {remedy}")
        self.name = name


def expand_variables(text: str) -> str:
    """Replace $NAME and ${NAME} by environment variables, $$ by $, and a leading ~ by the home folder.

    Raises UnsetVariable, and InputError on an unknown home or non-text.
    """

    def value_of(match: re.Match[str]) -> str:
        dollar, *names = match.groups()
        return dollar or os.environ[names[0] or names[1]]

    try:
        expanded = _VARIABLE.sub(value_of, text)
    except KeyError as unset:
        raise UnsetVariable(unset.args[0], text) from None
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
