"""Cross-option validation; the checks of a single option are in `fr/options/definitions.py`, those that need the
number of ranks or the data in `fr/options/run_checks.py`.
"""

import math
from itertools import pairwise
from typing import Any

from fr.alignment import CENTER_CROP
from fr.files.remote import is_url
from fr.options.augmentation import Augmentation
from fr.options.commands import as_called
from fr.options.fields import needs_of
from fr.options.losses import COSINES, MARGINS, LossSettings, MarginType
from fr.options.names import DATASETS, PRETRAINED, SET_OPTIONS, TIMM, UNLABELLED
from fr.options.recipes import DATA, LANDMARKS

# Options that have an effect only with some values of another option; with its other values they are refused unless
# they have their default.
_GOES_WITH = {
    **{
        name: ("margin_type", tuple(kind for kind, margin in MARGINS.items() if name in margin.options))
        for margin in MARGINS.values()
        for name in margin.options
    },
    # Options about cosines to the classes' centres.
    **dict.fromkeys(
        ("s", "sub_centers", "push_plus_loss_weight", "global_push_loss_weight", "min_margin_loss_weight"),
        ("margin_type", tuple(kind for kind in MARGINS if kind != "linear")),
    ),
    "momentum": ("optimizer", ("sgd",)),
    **dict.fromkeys(("betas", "eps"), ("optimizer", ("adam", "adamw"))),
    "lr_power": ("lr_schedule", ("poly",)),
    "lr_end": ("lr_schedule", ("poly", "cosine")),
    "t": ("mining_type", ("sv",)),
    "gamma": ("mining_type", ("focal",)),
    # of tools/align_faces.py
    **dict.fromkeys(("size", "template", "alignment", "margin"), ("crop", ("aligned",))),
    **dict.fromkeys(("boxes", "enlarge", "square"), ("crop", ("loose",))),
    "quality": ("format", ("jpg",)),
    # of tools/extract_features.py
    **dict.fromkeys(("file_ending", "noises_list"), ("format", ("bin",))),
    # of error rates by group
    "groups_pairs": ("dist", ("cos",)),
    "groups_fmr": ("groups_threshold", ("auto",)),
}
# Options without effect while all of these weights, probabilities or strengths are 0.
_NEEDS_WEIGHT = needs_of(Augmentation, LossSettings)
# Options without effect while these are empty or 0.
_NEEDS = {
    "partial": "init_from",
    "init_identities": "init_from",
    "keep_every": "keep_snapshots",
    "spike_return": "spike_factor",
    "distill_cosine_weight": "teacher",
    "distill_mse_weight": "teacher",
    "distill_relation_weight": "teacher",
    "distill_logit_weight": "teacher",
    "mix_prob": "teacher",
    **dict.fromkeys(("groups_columns", "groups_pairs", "groups_fmr", "groups_threshold"), "groups"),
}
_REMEDIES = {
    "train_list": ": a file with a line for each image, as of tools/detect_faces.py and tools/make_list.py",
    "train_landmarks": ": CSV files with landmarks, as of tools/detect_faces.py",
}
_OF_URLS = ("shard_cache", "shard_cache_gb")
_WINDOWED = ("tar", "parquet")  # formats of files with many images each
# Options that take several values, with the allowed numbers of them.
_LENGTHS = {"input_size": (0, 1, 2), "mean": (0, 3), "std": (0, 3), "betas": (2,)}


def length_problems(values: dict[str, Any], origins: dict[str, str], _defaults: dict[str, Any]) -> list[str]:
    """Problems of options with too many or too few values, one line each."""
    return [
        f"{origins[name]}: --{name}: takes {' or '.join(str(n) for n in lengths if n)} values, got {len(values[name])}"
        for name, lengths in _LENGTHS.items()
        if name in values and len(values[name]) not in lengths
    ]


def evaluation_problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Same as `train_problems`, for evaluate_lfw.py."""
    problems = length_problems(values, origins, defaults) + _center_crop_problems(values, origins, defaults)
    problems += _without_effect(values, origins, defaults)
    if values.get("quality") and not values.get("report"):
        problems.append(f"{origins['quality']}: --quality: goes with --report")
    if values.get("roc_band") and not (values.get("roc_fname") and values.get("bootstrap")):
        problems.append(f"{origins['roc_band']}: --roc_band: goes with --roc_fname and --bootstrap")
    if values.get("center") and values.get("dist") == "l2":
        problems.append(f"{origins['center']}: --center: no effect on L2 distances; goes with --dist cos")
    return problems


def train_problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Problems between options, one line each. Options with an invalid value are absent from `values`."""
    problems = []
    root, pairs, landmarks = (values.get(name) for name in SET_OPTIONS)
    if (root == "" and (pairs or landmarks)) or (pairs == "" and landmarks):
        empty = [f"--{name}" for name in SET_OPTIONS[:2] if values.get(name) == ""]
        problems.append(
            f"--{', --'.join(SET_OPTIONS)}: give all three, a list without landmarks (aligned crops), or the folder of "
            f"a whole set alone; empty: {', '.join(empty)}"
        )
    drops = values.get("lr_drops", [])
    if any(later <= earlier for earlier, later in pairwise(drops)):
        problems.append(f"{origins['lr_drops']}: --lr_drops: {drops} must increase")
    if values.get("warmup_epochs") and values.get("warmup_iterations"):
        problems.append(f"{origins['warmup_epochs']}: --warmup_epochs: not with --warmup_iterations; give one of them")
    if values.get("compile") and values.get("activation_checkpointing"):
        problems.append(
            f"{origins['activation_checkpointing']}: --activation_checkpointing: not with --compile, which decides by "
            "itself what it computes twice"
        )
    model = values.get("model", TIMM)
    if values.get("pretrained") and model not in PRETRAINED and not model.startswith(TIMM):
        known = ", ".join(PRETRAINED)
        problems.append(f"{origins['pretrained']}: --pretrained: goes with --model {known}, {TIMM}NAME; here {model}")
    if values.get("pretrained") and values.get("init_from"):
        problems.append(f"{origins['pretrained']}: --pretrained: not with --init_from; a run begins with one of them")
    settings = [word.partition("=")[0] for word in values.get("model_kwargs", [])]
    if twice := sorted({key for key in settings if settings.count(key) > 1}):
        problems.append(f"{origins['model_kwargs']}: --model_kwargs: more than one value of {', '.join(twice)}")
    problems += length_problems(values, origins, defaults)
    problems += _data_problems(values, origins, defaults) + _order_problems(values, origins)
    problems += _center_crop_problems(values, origins, defaults)
    return problems + _without_effect(values, origins, defaults) + _loss_problems(values, origins)


def tool_problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Same as `train_problems`, for tools that read training data."""
    problems = length_problems(values, origins, defaults) + _data_problems(values, origins, defaults)
    problems += _center_crop_problems(values, origins, defaults)
    return problems + _without_effect(values, origins, defaults)


def _data_problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Problems of missing options that the format of the training data needs, and of given ones that it doesn't use."""
    dataset = values.get("train_dataset")
    if dataset is None:
        return []
    form = (DATASETS | UNLABELLED)[dataset]
    needed, used = form.needed, form.used
    aligns = values.get("alignment") != CENTER_CROP
    if not aligns:
        needed = tuple(name for name in needed if name != "train_landmarks")
    problems = [
        f"--{name} is required by --train_dataset {dataset}{as_called(_REMEDIES.get(name, ''))}"
        for name in needed
        if values.get(name) == ""
    ]
    problems += _url_problems(dataset, values, origins, defaults)
    problems += [
        f"{origins[name]}: --{name}: not used by --train_dataset {dataset}"
        for name in DATA
        if values.get(name) and name not in needed + used
    ]
    if values.get("held_out_list") and "train_list" not in needed + used:
        problems.append(f"{origins['held_out_list']}: --held_out_list: --train_dataset {dataset} has no lists")
    placeless = values.get("train_landmarks") == "" and values.get("aligned") is False
    if aligns and placeless and {"train_landmarks", "aligned"} <= {*used}:  # tar shards show it themselves
        problems.append(
            f"--train_dataset {dataset} needs to know where the faces are: give --train_landmarks (CSV files, as of "
            f"{as_called('tools/detect_faces.py')}), or --aligned if the images are aligned crops, or the network "
            f"takes centre crops{f' (--alignment {CENTER_CROP})' if 'alignment' in values else ''}"
        )
    if "aligned" in used and values.get("train_landmarks") and values.get("aligned"):
        problems.append(f"{origins['aligned']}: --aligned: not with --train_landmarks, which align the images")
    return problems


def _url_problems(dataset: str, values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Problems of options for data below a URL, which needs --shuffle_window in a training."""
    problems, window = [], values.get("shuffle_window", 1)
    if is_url(values.get("train_data_root") or ""):
        if values.get("allow_outside"):
            problems.append(f"{origins['allow_outside']}: --allow_outside: about links, and a URL has none")
        if dataset != "tar":
            problems.append(f"--train_data_root: a URL goes with --train_dataset tar, not {dataset}")
        elif not window:
            problems.append("--shuffle_window is required by a URL as --train_data_root: shards to hold at a time")
    else:
        changed = [name for name in _OF_URLS if name in values and values[name] != defaults[name]]
        problems += [f"{origins[name]}: --{name}: no effect without a URL as --train_data_root" for name in changed]
    if "shuffle_window" in values and window and dataset not in _WINDOWED:
        goes = f"goes with --train_dataset {', '.join(_WINDOWED)}; here {dataset}"
        problems.append(f"{origins['shuffle_window']}: --shuffle_window: {goes}")
    if "shuffle_window" in values and window and (values.get("weighted") or values.get("images_per_identity")):
        problems.append(f"{origins['shuffle_window']}: --shuffle_window: not with --weighted or --images_per_identity")
    return problems


def _center_crop_problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    """Problems of options about landmarks, with a preprocessing that doesn't use any."""
    if values.get("alignment") != CENTER_CROP:
        return []
    problems = [
        f"{origins[name]}: --{name}: not with --alignment {CENTER_CROP}, which uses no landmarks"
        for name in LANDMARKS
        if values.get(name, defaults.get(name)) != defaults.get(name)
    ]
    if values.get("cutout_prob"):
        problems.append(f"--cutout_prob: boxes over landmarks, and --alignment {CENTER_CROP} has none: give 0")
    return problems


def _order_problems(values: dict[str, Any], origins: dict[str, str]) -> list[str]:
    each, batch, parts = (values.get(name, 0) for name in ("images_per_identity", "train_batch_size", "accumulate"))
    if not each:
        return []
    problems = []
    if values.get("weighted"):
        problems.append(f"{origins['weighted']}: --weighted: no effect with --images_per_identity, which does the same")
    if batch and parts and batch % (each * parts):
        problems.append(
            f"{origins['images_per_identity']}: --images_per_identity: {each} of each don't fill a --train_batch_size "
            f"of {batch}{f' in {parts} parts (--accumulate)' if parts > 1 else ''}; {nearest(batch, each * parts)}"
        )
    return problems


def _without_effect(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    problems = []
    changed = {name for name, value in values.items() if value != defaults[name]}
    for name in changed & _GOES_WITH.keys():
        other, wanted = _GOES_WITH[name]
        if values.get(other, wanted[0]) not in wanted:
            problems.append(f"{origins[name]}: --{name}: goes with --{other} {', '.join(wanted)}; here {values[other]}")
    for name in changed & _NEEDS_WEIGHT.keys():
        if not any(values.get(weight, 1) for weight in _NEEDS_WEIGHT[name]):
            problems.append(f"{origins[name]}: --{name}: no effect while 0: --{', --'.join(_NEEDS_WEIGHT[name])}")
    for name in changed & _NEEDS.keys():
        if values.get(_NEEDS[name]) in ("", 0):
            problems.append(f"{origins[name]}: --{name}: no effect without --{_NEEDS[name]}")
    return sorted(problems)


def _loss_problems(values: dict[str, Any], origins: dict[str, str]) -> list[str]:
    def complain(name: str, problem: str) -> None:
        problems.append(f"{origins[name]}: --{name}: {problem}")

    problems: list[str] = []
    kind, mining = values.get("margin_type"), values.get("mining_type")
    margin = MARGINS.get(kind or "", MarginType())
    for name, largest in margin.largest.items():
        if _number(values, name, 0) > largest:
            what = "is more than cosines differ" if largest == COSINES else "radians is more than a right angle"
            complain(name, f"{values[name]} {what}; {kind} takes up to {largest:.3g}")
    if _number(values, "m", margin.smallest) < margin.smallest:
        complain("m", f"{values['m']} would help the target; {kind} multiplies the angle by 1 or more")
    for low, high in (("l_m", "u_m"), ("l_a", "u_a")):
        if kind == "mag" and _number(values, low, 0) >= _number(values, high, math.inf):
            said, other = (low, high) if origins[low] != "default" else (high, low)
            complain(said, f"{values[said]} must be {'less' if said == low else 'more'} than --{other} {values[other]}")
    if kind == "curricular" and mining == "sv":
        complain("mining_type", "sv and --margin_type curricular both weigh the same hard classes; choose one")
    if kind == "linear" and mining == "sv":
        complain("mining_type", "sv weighs cosines, and --margin_type linear has none")
    if values.get("sub_centers", 1) > 1 and values.get("min_margin_loss_weight"):
        complain("min_margin_loss_weight", "not with --sub_centers: it is about the one centre of a class")
    if mining == "focal" and values.get("label_smoothing"):
        complain("label_smoothing", "not with --mining_type focal, whose weight is a probability of the label alone")
    weights = [name for name in values if name.endswith("_weight") and values[name]]
    if values.get("softmax_weight") == 0 and not weights:
        complain("softmax_weight", "0 leaves no loss; give one of the auxiliary losses a weight")
    labelled = [name for name in weights if not name.startswith("distill_")]
    if values.get("mix_prob") and labelled:
        complain("mix_prob", f"a blend of two images has no label: goes with --{labelled[0]} 0")
    if values.get("distill_logit_weight") and values.get("sample_rate", 1) < 1:
        complain("distill_logit_weight", "compares the probabilities of all classes: goes with --sample_rate 1")
    trained = values.get("softmax_weight") or values.get("distill_logit_weight")
    if trained == 0 and values.get("held_out_list"):
        complain("held_out_list", "measures the head, which --softmax_weight 0 doesn't train")
    return problems


def _number(values: dict[str, Any], name: str, otherwise: float) -> float:
    """The value of an option if it is a number, else `otherwise`: for `auto`, or if it was refused."""
    value = values.get(name)
    return value if isinstance(value, (int, float)) else otherwise


def nearest(batch: int, divisor: int) -> str:
    """Text on the batch sizes around `batch` that are divisible."""
    lower = batch // divisor * divisor
    return f"the nearest that do: {' and '.join(str(size) for size in (lower, lower + divisor) if size)}"
