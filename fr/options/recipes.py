"""Choice of a recipe, and recipes whose data settings are replaced on the command line."""

from collections.abc import Sequence

from fr.alignment import CENTER_CROP
from fr.options.config_files import COMMAND_LINE, Setting
from fr.options.names import DATASETS, SET_OPTIONS, UNLABELLED
from fr.options.types import BOOLEANS

DATA = ("train_list", "train_landmarks", "train_meta", "aligned")  # options about the files of the training data
LANDMARKS = ("train_landmarks", "val_landmarks", "aligned", "template")  # options about the positions of faces

_FEW = 100  # identities to train on; fewer are too few for a network from scratch (docs/own-faces.md)
_MANY = 5_000  # identities, for which the scale of configs/own_faces.yml is too small


def first_recipe(identities: int) -> tuple[list[str], str]:
    """Words of a command that trains on data with so many identities: the recipe; and a line of advice, or ""."""
    if identities >= _MANY:
        return ["@configs/mobilenet_arcface.yml"], ""
    if identities >= _FEW:
        return ["@configs/own_faces.yml"], ""
    advice = (
        f"with fewer than about {_FEW} identities start from a published network, such as backbone.pth "
        "(docs/weights.md); or train @configs/own_faces.yml from scratch, without --init_from"
    )
    return ["@configs/fine_tune.yml", "--init_from", "backbone.pth"], advice


def drop_replaced(last: dict[str, Setting], settings: Sequence[Setting]) -> list[str]:
    """Drop settings of files that options of the command line make useless; returns a line for each such option.

    last: the setting that counts of each option, modified here. settings: all settings, in order.
    """
    said = {name for name, setting in last.items() if setting.origin == COMMAND_LINE}
    by: dict[str, set[str]] = {}
    if "train_dataset" in said:
        dataset = "".join(last["train_dataset"].words)
        by[f"--train_dataset {dataset}"] = _unused(dataset, settings)
    if "aligned" in said and BOOLEANS.get("".join(last["aligned"].words).lower(), True):
        by["--aligned"] = {"train_landmarks"}
    if "train_landmarks" in said:
        by["--train_landmarks"] = {"aligned"}
    if "alignment" in said and last["alignment"].words == [CENTER_CROP]:
        by[f"--alignment {CENTER_CROP}"] = {*LANDMARKS}
    if "val_sets" in said and not said & {*SET_OPTIONS, "val_set"}:
        by["--val_sets"] = {*SET_OPTIONS, "val_set"}
    notes = []
    for reason, names in by.items():
        dropped = [name for name in last if name in names - said and last[name].words not in ([""], ["auto"])]
        if dropped:
            notes.append(f"not used with {reason}: {', '.join(f'--{name} ({last[name].origin})' for name in dropped)}")
        for name in dropped:
            del last[name]
    return notes


def _unused(dataset: str, settings: Sequence[Setting]) -> set[str]:
    """Options of DATA that a format doesn't use, and the list if the files are of another format."""
    form = (DATASETS | UNLABELLED).get(dataset)
    if form is None:  # refused later
        return set()
    of_files = [setting.words for setting in settings if setting.name == "train_dataset"]
    lists = {"train_list"} if of_files and of_files[-1] != [dataset] else set()
    return {name for name in DATA if name not in form.needed + form.used} | lists
