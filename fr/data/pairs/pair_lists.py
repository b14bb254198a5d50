"""Lists of pairs of paths, in the published forms of verification sets, recognised by their first line.

| form | lines |
|---|---|
| lfw | a line of two numbers, then `name i j` or `name i other j` (`fr/data/pairs/lfw.py`) |
| pairs | `path path 0\\|1` (FaceTechnologyTool; `agedb_30_pair.txt`), or `0\\|1 path path` (`agedb_30_ann.txt`) |
| two_lines | `path n` and `path n`, the two of a pair; n is 0 for two people (CALFW, CPLFW) |

A line with tabs is split at tabs only, any other after the file endings of images, so paths may hold spaces.
"""

import re
from pathlib import Path

from fr.data.faces import VerificationFaces, refuse
from fr.data.pairs.lfw import HEADER, read_lfw_pairs
from fr.data.pairs.pair_faces import ENDINGS, PairRow, Pairs, faces_of_pairs, tenths
from fr.data.pairs.whole_sets import SetForm, check_kind, images_in, landmarks_in, set_name
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_text
from fr.options.names import SET_LISTS

_KINDS = {"0": False, "1": True}
_WHOLE = re.compile("[0-9]{1,9}")
_SHOWN = 80  # characters of a line in a message


def list_form(path: Path) -> str:
    """Recognise `lfw`, `pairs` or `two_lines`; InputError for any other file."""
    _, first = next(iter(_lines(path)), (0, []))
    match first:
        case [number, other] if _WHOLE.fullmatch(number) and _WHOLE.fullmatch(other):
            return "lfw"
        case [_, number] if _WHOLE.fullmatch(number):
            return "two_lines"
        case [name, number, *_, last] if [bool(_WHOLE.fullmatch(one)) for one in (name, number, last)] == [0, 1, 1]:
            raise InputError(f"{path}:1: LFW's pairs without the line before them: {HEADER}")
        case [first_word, _, last] if first_word in _KINDS or last in _KINDS:
            return "pairs"
    raise InputError(
        f"{path}:1: no list of pairs: expected two numbers as LFW's pairs.txt, `path path 0|1`, or `path 0|1` twice a "
        "pair as CALFW's"
    )


def read_pairs(path: Path, form: str) -> Pairs:
    """The pairs of a list of that form; InputError names malformed lines."""
    return {"lfw": read_lfw_pairs, "pairs": _read_pairs, "two_lines": _read_two_lines}[form](path)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and words of the lines that aren't blank."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, _words(line.strip())) for number, line in lines if line.strip()]


def _words(line: str) -> list[str]:
    if "\t" in line:
        return [word.strip() for word in line.split("\t")]
    words = line.split()
    ends = [place for place, word in enumerate(words) if word.endswith(ENDINGS)]
    if not ends:
        return words
    in_front = words[0] in _KINDS and ends[-1] == len(words) - 1
    starts = [int(in_front), *(end + 1 for end in ends)]
    paths = [" ".join(words[start : end + 1]) for start, end in zip(starts, ends, strict=False)]
    return [*words[: int(in_front)], *paths, *words[ends[-1] + 1 :]]


def _read_pairs(path: Path) -> Pairs:
    lines = _lines(path)
    in_front = len(lines[0][1]) == 3 and lines[0][1][2] not in _KINDS
    form = "`0|1 path path`" if in_front else "`path path 0|1`"
    rows: list[PairRow] = []
    problems: list[str] = []
    for number, words in lines:
        kind, *pair = words if in_front else (words[-1], *words[:-1])
        if len(pair) != 2 or kind not in _KINDS or not all(pair):
            problems.append(f"{path}:{number}: {' '.join(words)[:_SHOWN]!r} isn't {form}")
            continue
        rows.append(((pair[0], pair[1]), _KINDS[kind], f"{path}:{number}"))
    refuse(problems)
    return Pairs.of(rows, tenths([same for _, same, _ in rows], str(path)))


def _read_two_lines(path: Path) -> Pairs:
    """n of a same pair is the fold in CALFW, from 1, and 1 in CPLFW; neither has folds of the different pairs."""
    lines = _lines(path)
    where: dict[str, str] = {}
    problems = []
    for number, words in lines:
        if len(words) != 2 or not words[0] or not _WHOLE.fullmatch(words[1]):
            problems.append(f"{path}:{number}: {' '.join(words)[:_SHOWN]!r} isn't `path n`")
            continue
        where.setdefault(words[0], f"{path}:{number}")
    refuse(problems)
    if len(lines) % 2:
        raise InputError(f"{path}:{lines[-1][0]}: the last pair has one line; {len(lines)} lines are no pairs")
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    refuse([
        f"{path}:{number}: the two lines of a pair end with {first[1]} and {second[1]}"
        for (number, first), (_, second) in pairs
        if (int(first[1]) == 0) != (int(second[1]) == 0)
    ])
    same = [int(first[1]) != 0 for (_, first), _ in pairs]
    return Pairs([(first[0], second[0]) for (_, first), (_, second) in pairs], same, tenths(same, str(path)), where)


def list_in(folder: Path) -> Path | None:
    """The list of pairs in the folder of a complete set; None if there is none."""
    return next((folder / name for name in SET_LISTS if (folder / name).is_file()), None)


def _is_at(path: Path) -> bool:
    return path.is_file() or list_in(path) is not None


def _read(root: DataRoot, kind: str, option: str) -> tuple[str, VerificationFaces]:
    """Read a set: images are in the list's folder or one in it; without landmarks beside the list, they are crops."""
    path = list_in(root.path) or root.path
    form = list_form(path)
    check_kind(kind, form, path)
    pairs, folder = read_pairs(path, form), path.parent
    images = DataRoot(images_in(folder, pairs), root.outside_allowed)
    return set_name(path, form, kind), faces_of_pairs(images, pairs, landmarks_in(folder), option)


FORM = SetForm(f"a list of pairs, or a folder with one of {', '.join(SET_LISTS)}", _is_at, _read)
