"""Options: the order rule, the messages, and that bad input gives InputError and nothing else."""

import contextlib
import importlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fr.errors import InputError, run_plainly
from fr.options.augmentation import Augmentation
from fr.options.definitions import evaluation_options, train_options
from fr.options.losses import LossSettings
from fr.options.names import ELSEWHERE
from fr.options.parsing import Resolved
from fr.options.run_checks import check_batches
from fr.options.types import keyword_arguments
from tests.conftest import REQUIRED, ROOT

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = ["--train_data_root", "root", "--train_list", "list.txt", "--train_landmarks", "csv"]
WHOLE = "expected a whole number >= 1"
LAUNCH = "choose the GPUs at the launch:"
LFW = "--val_data_root, --val_list, --val_landmarks"
BASIC_AUGMENTATION = {"flip_prob", "rotate_prob", "rotate_degrees", "cutout_prob", "blur_prob"}
# Options that belong to one run, not to a recipe, or whose default follows from another option; and those of a loss
# that are off, or without effect, unless another one is set.
NOT_IN_RECIPES = {
    *("max_iterations", "max_bad_steps", "max_bad_images", "snap_to_resume", "log_folder"),
    *("device", "dali_device", "dali_threads", "data_cache", "allow_outside"),
    *("mean", "std", "color_order"),  # the model's own
    *("train_meta", "aligned", "held_out_list"),  # of other data
    *("groups", "groups_columns", "groups_pairs", "groups_fmr", "groups_threshold"),  # of other data
    *("deterministic", "spike_factor", "spike_return", "hang_timeout"),
    *("overwrite", "async_snapshots", "keep_snapshots", "keep_every", "snap_mirror", "card"),
    *("weighted", "images_per_identity", "shuffle_window", "shard_cache", "shard_cache_gb"),
    *("model_kwargs", "freeze", "lr_scale", "ema_decay", "sync_bn", "activation_checkpointing", "compile"),
    *("init_from", "partial", "init_identities", "pretrained"),
    *("warmup_iterations", "warmup_epochs"),  # one of them
    *("optimizer", "betas", "eps", "decay_norm_and_bias", "lr_schedule", "lr_end", "lr_power"),
    *({field.name for field in fields(LossSettings)} - {"margin_type", "s"}),
    *({field.name for field in fields(Augmentation)} - BASIC_AUGMENTATION),
}
# Each example writes its own files, so the shared tmp_path is harmless; disks may be slow.
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def value(name: str, *argv: str) -> Any:
    return getattr(train_options([*DATA, *argv]).values, name)


def problems(*argv: str, of: Callable[[list[str]], Resolved] = train_options) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        of(list(argv))
    assert str(error.value) == "\n".join(error.value.problems)
    return error.value.problems


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file into the working directory; gives its @argument."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "x.yml") -> str:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"@{name}"

    return write


def test_a_value_may_begin_with_dashes() -> None:
    assert value("log_folder", "--log_folder=--") == "--"
    assert value("log_folder", "--log_folder=-x") == "-x"


def test_defaults_are_those_documented() -> None:
    resolved = train_options(DATA)
    assert resolved.as_dict() == {
        "train_dataset": "vgg", "train_data_root": "root", "train_list": "list.txt", "train_landmarks": "csv",
        "train_meta": "", "aligned": False, "allow_outside": False, "data_cache": "auto",
        "shard_cache": "auto", "shard_cache_gb": 100,
        "held_out_list": "", "weighted": False, "shuffle_window": 0, "images_per_identity": 0,
        "input_size": [], "template": "sphereface", "alignment": "procrustes", "mean": [], "std": [],
        "color_order": "auto", "flip_prob": 0.5,
        "rotate_prob": 0.95, "rotate_degrees": 10, "cutout_prob": 0.05, "blur_prob": 0.2,
        "zoom_prob": 0, "zoom_range": 0.1, "shift_prob": 0, "shift_range": 0.05, "crop_prob": 0, "crop_side": 0.875,
        "color_prob": 0, "color_brightness": 0.5, "color_contrast": 0.5, "color_saturation": 0.5, "gray_prob": 0,
        "lowres_prob": 0, "lowres_ratio": 0.2, "jpeg_prob": 0, "jpeg_quality": 20,
        "erase_prob": 0, "erase_area": 0.4, "erase_aspect": 0.3, "mix_prob": 0,
        "model": "mobilenet", "embed_size": 256, "model_kwargs": [],
        "init_from": "", "partial": False, "init_identities": "", "pretrained": False,
        "margin_type": "cos", "softmax_weight": 1, "s": 30, "m": "auto", "easy_margin": False,
        "m1": 1, "m2": 0.3, "m3": 0.2, "h": 0.333, "l_m": 0.45, "u_m": 0.8, "l_a": 10, "u_a": 110, "lambda_g": 35,
        "margin_gradient": "true", "mining_type": "none", "t": 1.1, "gamma": 2, "label_smoothing": 0, "sample_rate": 1,
        "sub_centers": 1,
        "center_loss_weight": 0, "center_loss_lr": 0.5, "push_loss_weight": 0, "push_plus_loss_weight": 0,
        "global_push_loss_weight": 0, "push_margin": 0.7, "min_margin_loss_weight": 0, "min_margin": 0.7,
        "triplet_loss_weight": 0, "triplet_margin": 0.2, "triplet_mining": "hard",
        "teacher": "", "distill_cosine_weight": 0, "distill_mse_weight": 0, "distill_relation_weight": 0,
        "distill_logit_weight": 0, "distill_temperature": 4,
        "lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4, "lr_drops": [3, 6, 9, 13],
        "optimizer": "sgd", "betas": [0.9, 0.999], "eps": 1e-8, "decay_norm_and_bias": True,
        "lr_schedule": "step", "lr_end": 0, "lr_power": 2,
        "warmup_iterations": 0, "warmup_epochs": 0, "clip_norm": 0, "freeze": [], "lr_scale": [], "ema_decay": 0,
        "train_batch_size": 170, "accumulate": 1,
        "epoch_total_num": 30, "max_iterations": 0, "max_bad_steps": 10, "max_bad_images": 100, "freeze_bn": False,
        "precision": "fp32",
        "sync_bn": False, "activation_checkpointing": False, "compile": False, "seed": 0, "channels_last": False,
        "val_data_root": "", "val_set": "auto", "val_sets": [], "val_list": "", "val_landmarks": "", "val_step": 1000,
        "val_batch_size": 0, "groups": "", "groups_columns": "", "groups_pairs": "own", "groups_fmr": 0.01,
        "groups_threshold": "auto",
        "flipped_emb": False, "snap_folder": "./snapshots/", "snap_prefix": "FaceReidNet",
        "snap_to_resume": "", "log_folder": "", "log_step": 10,
        "deterministic": False, "spike_factor": 0.0, "spike_return": False, "hang_timeout": 1200.0,
        "overwrite": False, "async_snapshots": False, "keep_snapshots": 0, "keep_every": 0, "snap_mirror": "",
        "card": True,
        "device": "auto", "dali_device": "auto", "dali_threads": 0,
    }  # fmt: skip
    assert resolved.origins["lr"] == "default"
    assert resolved.origins["train_list"] == "command line"


def test_evaluation_defaults_are_those_documented() -> None:
    assert evaluation_options(["--snap", "a.pt"]).as_dict() == {
        "snap": "a.pt", "model": "", "embed_size": 0, "averaged": False, "json": "", "report": "", "roc_fname": "",
        "quality": "", "roc_band": False, "allow_outside": False, "cache": False, "show_failed": "",
        "dump_embeddings": "",
        "input_size": [], "template": "auto", "alignment": "auto", "mean": [], "std": [], "color_order": "auto",
        "val_data_root": "", "val_set": "auto", "val_sets": [], "val_list": "", "val_landmarks": "",
        "val_batch_size": 0, "flipped_emb": False,
        "protocol": "standard", "dist": "cos", "flip_mode": "sum", "center": False, "bootstrap": 1000,
        "groups": "", "groups_columns": "", "groups_pairs": "own", "groups_fmr": 0.01, "groups_threshold": "auto",
        "device": "auto", "dali_device": "auto", "dali_threads": 0,
    }  # fmt: skip
    assert problems(of=evaluation_options) == ("--snap is required",)
    assert problems("--snap=a", "--mean", "1", of=evaluation_options) == (
        "command line: --mean: takes 3 values, got 1",
    )
    assert problems("--snap=a", "--center", "--dist=l2", of=evaluation_options) == (
        "command line: --center: no effect on L2 distances; goes with --dist cos",
    )


def test_published_commands_of_the_ancestor_keep_their_meaning(config: Callable[..., str]) -> None:
    assert value("m", "-m", "0.2", config("m: 0.5")) == 0.5  # a later file overwrites
    command = (
        "--val_data_root l --val_list p --val_landmarks t --snap a.pt --model mobilenet --embed_size 256"
    )
    assert evaluation_options(command.split()).values.embed_size == 256


@pytest.mark.parametrize(
    "argv", [["-m", ".2"], ["-m.2"], ["-m=.2"], ["--m", ".2"], ["--m=.2"], ["--m=1", "--m=.2"]]
)
def test_every_spelling_of_an_option_is_read(argv: list[str]) -> None:
    assert value("m", *argv) == 0.2


@PROPERTY
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["lr", "embed_size", "s"]), st.integers(1, 99)), min_size=1, max_size=3)
        | st.tuples(st.sampled_from(["lr", "embed_size", "s"]), st.integers(1, 99)),
        max_size=8,
    )
)
def test_the_later_setting_wins_and_its_origin_is_kept(parts: list[Any]) -> None:
    expected = {name: (default, "default") for name, default in (("lr", 0.4), ("embed_size", 256), ("s", 30.0))}
    argv = list(DATA)
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            if isinstance(part, tuple):  # one setting on the command line
                argv += [f"--{part[0]}", str(part[1])]
                expected[part[0]] = (part[1], "command line")
                continue
            path = f"{folder}/{number}.yml"
            lines = dict(part)  # a file names an option once
            Path(path).write_text("".join(f"{name}: {x}\n" for name, x in lines.items()))
            argv.append(f"@{path}")
            expected |= {name: (x, f"{path}:{line}") for line, (name, x) in enumerate(lines.items(), start=1)}
        resolved = train_options(argv)
    for name, pair in expected.items():
        assert (getattr(resolved.values, name), resolved.origins[name]) == pair


def test_values_may_be_lists_flags_exponents_and_texts(config: Callable[..., str]) -> None:
    text = (
        "lr: 1e-4\nlr_drops: [2, 4]\nflipped_emb: true\nsnap_prefix: 123\nval_list: ''\nlog_folder: 'a: #b'\n"
    )
    got = train_options([*DATA, config(text)]).values
    assert (got.lr, got.lr_drops, got.flipped_emb, got.snap_prefix) == (1e-4, [2, 4], True, "123")
    assert (got.val_list, got.log_folder) == ("", "a: #b")
    assert value("lr_drops", config("lr_drops: 5")) == [5]
    assert value("lr_drops", config("lr_drops:\n- 5\n- 6\n")) == [5, 6]
    assert value("lr_drops", config("lr_drops: []")) == value("lr_drops", "--lr_drops") == []


def test_a_flag_can_be_switched_off_later(config: Callable[..., str]) -> None:
    on, off = config("flipped_emb: true", "on.yml"), config("flipped_emb: false", "off.yml")
    assert value("flipped_emb", on) is value("flipped_emb", off, "--flipped_emb") is True
    assert value("flipped_emb", on, off) is value("flipped_emb", "--flipped_emb", off) is False
    assert value("flipped_emb", on, "--flipped_emb", "false") is False


@pytest.mark.parametrize(
    "text", [b"", b"# nothing\n", b"\xef\xbb\xbflr: 0.1\r\nm: 0.2\r\n", b"---\nlr: 0.1\n"]
)
def test_empty_files_bom_and_crlf_are_fine(config: Callable[..., str], text: bytes) -> None:
    resolved = train_options([*DATA, config(text)])
    assert resolved.values.lr == (0.1 if b"lr" in text else 0.4)
    if b"m:" in text:
        assert (resolved.values.m, resolved.origins["m"]) == (0.2, "x.yml:2")


def test_variables_are_expanded_everywhere(
    config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT", "/d")
    monkeypatch.setenv("PLAIN", "a$ROOT")  # what a variable holds isn't expanded again
    assert value("log_folder", config("log_folder: $ROOT/a${ROOT}b")) == "/d/a/db"
    assert value("log_folder", "--log_folder", "$ROOT/$PLAIN/$$ROOT/5$") == "/d/a$ROOT/$ROOT/5$"
    monkeypatch.delenv("UNSET_ROOT", raising=False)
    assert problems(*DATA, config("\nlog_folder: ${UNSET_ROOT}/x\n"), "--lr=$UNSET_ROOT") == (
        "x.yml:2: log_folder: the environment variable $UNSET_ROOT in '${UNSET_ROOT}/x' isn't set; "
        "before this command: export UNSET_ROOT=…, or write $$ for a plain $",
    )
    assert problems(*DATA, "--log_folder", "$UNSET_1/${UNSET_2}/$UNSET_1", "--lr", "$UNSET_2") == (
        "command line: --log_folder: the environment variables $UNSET_1, $UNSET_2 in '$UNSET_1/${UNSET_2}/$UNSET_1' "
        "aren't set; before this command: export UNSET_1=… UNSET_2=…, or write $$ for a plain $",
    )


def test_each_unset_variable_of_a_recipe_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names each of two variables three times."""
    for name in ("VGGFace2_ROOT", "LFW_ROOT"):
        monkeypatch.delenv(name, raising=False)
    first, second = problems(f"@{ROOT}/configs/mobilenet_arcface.yml")
    assert "train_data_root: " in first and "export VGGFace2_ROOT=…" in first
    assert "val_data_root: " in second and "export LFW_ROOT=…" in second


def test_a_tilde_is_the_home_folder_in_files_and_behind_the_kind_of_a_set(
    config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    file = config("train_list: ~/list.txt\nval_sets: [pairs=~/p.txt, '~', a~b, x/~/y]\nsnap_folder: ~ada/x")
    values = train_options([*REQUIRED, file]).values
    assert values.train_list == "/home/ada/list.txt"
    assert values.val_sets == ["pairs=/home/ada/p.txt", "/home/ada", "a~b", "x/~/y"]
    assert values.snap_folder == "~ada/x"  # as in a shell, of another user; no folder of this one


def test_without_a_home_a_tilde_is_refused(config: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match=r"train_list: ~ in '~/list\.txt': no home folder is known; set HOME"):
        train_options([*REQUIRED, config("train_list: ~/list.txt")])


def check(words: str, world_size: int) -> None:
    check_batches(train_options([*REQUIRED, *words.split()]).values, world_size)


def test_one_image_in_a_micro_batch_is_refused_where_batch_norms_need_two() -> None:
    for words, ranks in (("1", 1), ("2 --accumulate 2", 1), ("2", 2), ("1 --sync_bn", 1)):
        with pytest.raises(InputError, match=r"one image in each micro-batch.*--freeze_bn"):
            check(f"--train_batch_size {words}", ranks)
    for words, ranks in (("2", 1), ("1 --freeze_bn", 1), ("2 --sync_bn", 2)):
        check(f"--train_batch_size {words}", ranks)


def test_values_that_start_with_a_dash(config: Callable[..., str]) -> None:
    assert "got '-1e-3'" in problems(*DATA, "--lr", "-1e-3")[0]
    assert "got '-0.5'" in problems(*DATA, config("momentum: -0.5"))[0]
    assert value("snap_folder", "--snap_folder=--lr") == "--lr"
    assert value("log_folder", config("log_folder: --help")) == "--help"
    assert value("log_folder", "--log_folder", "") == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr: 1", "x.yml:1: lrr: no such option; the closest: lr"),
        ("\nlr: abc", "x.yml:2: lr: expected a number > 0, got 'abc'"),
        ("lr: .inf", "x.yml:1: lr: expected a number > 0, got '.inf'"),
        ("lr: inf", "x.yml:1: lr: expected a number > 0, got 'inf'"),
        ("seed: 1.5", "x.yml:1: seed: expected a whole number"),
        ("margin_type: spheric", "x.yml:1: margin_type: invalid choice: 'spheric' (choose from "),
        ("flipped_emb: maybe", "x.yml:1: flipped_emb: expected true or false"),
        ("flipped_emb: []", "x.yml:1: flipped_emb: expected one value, not a list"),
        ("lr: [1]", "x.yml:1: lr: expected one value, not a list"),
        ("lr:", "x.yml:1: lr: has no value; write ''"),
        ("lr_drops: [~]", "x.yml:1: lr_drops: has no value"),
        ("lr_drops: [1, --lr=3]", "x.yml:1: lr_drops: unexpected value '--lr=3'"),
        ("lr_drops: [1, --help]", "x.yml:1: lr_drops: unexpected value '--help'"),
        ("lr_drops: [-3]", "x.yml:1: lr_drops: expected a whole number >= 1, got '-3'"),
        ("lr_drops: 3, 6", "x.yml:1: lr_drops: expected a whole number >= 1, got '3, 6'; several values are written ["),
        ("m: .1\nlr:\n\t.1", "x.yml:3: not valid YAML: found character '\\t' that cannot start any token; use spaces"),
        ("lr_drops: [[1]]", "x.yml:1: lr_drops: expected a value or a flat list"),
        ("a: {b: 1}", "x.yml:1: a: expected a value or a flat list"),
        ("lr: .1\nm: .1\nlr: .2", "x.yml:3: lr: given twice in this file, first on line 1"),
        ("{lr: .1, lr: .2}", "x.yml:1: lr: given twice in this file, first on line 1"),
        ("? [a]\n: 1", "x.yml:1: ? :: an option's name is due here"),
        ("help: true", "x.yml:1: help: no such option"),
        ("--lr: 1", "x.yml:1: --lr: no such option; the closest: lr"),
        ("lr: !!python/object/apply:os.system [true]", "x.yml:1: lr: the YAML tag"),
        ("lr: !!python/name:os.system", "x.yml:1: lr: the YAML tag"),
        ("!!python/dict {lr: 1}", "x.yml:1: expected `option: value` lines"),
        ("lr: !mine 3", "x.yml:1: lr: the YAML tag"),
        ("m: .1\nlr: &a .1", "x.yml:2: not valid YAML: anchors and aliases aren't allowed"),
        ("m: .1\nlr: *a", "x.yml:2: not valid YAML: anchors and aliases aren't allowed"),
        ("a: &a [1]\nb: [*a, *a]", "x.yml:1: not valid YAML: anchors and aliases aren't allowed"),
        ("m: .1\n<<: {lr: .1}", "x.yml:2: <<: expected a value or a flat list"),
        ("m: .1\n<<: .1", "x.yml:2: <<: no such option"),
        ("lr: .1\n" + "#" * 65_536, "x.yml: can't be read: 65,543 bytes, more than 65,536"),
        ("lr: .1\nm: [", "x.yml:2: not valid YAML"),
        ("@other.yml", "x.yml:1: not valid YAML"),
        ("lr: .1\n---\nm: .1", "x.yml:2: not valid YAML"),
        ("- lr", "x.yml:1: expected `option: value` lines"),
        ("just text", "x.yml:1: expected `option: value` lines"),
        (b"lr: .1\nm: \xff", "x.yml:2: not UTF-8 text"),
        (b"lr: .1\r\nm: \0", "x.yml:2: a NUL byte"),
        ("lr: .1\nm: \x1b", "x.yml:2: not valid YAML: the character '\\x1b'"),
        ("lr: .1".encode("utf-16"), "x.yml: UTF-16 text; save it as UTF-8"),
        (r'log_folder: "\UFFFFFFFF"', "x.yml: not valid YAML"),
        (r'log_folder: "\ud800"', "x.yml:1: log_folder: '\\ud800' isn't UTF-8 text"),
        (r'log_folder: "a\0b"', "x.yml:1: log_folder: 'a\\x00b' isn't UTF-8 text"),
        ("[" * 20_000, "x.yml: not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    config: Callable[..., str], text: str | bytes, message: str
) -> None:
    first, *others = problems(*DATA, config(text))
    assert first.startswith(message) and "\n" not in first
    assert not others


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lrr", "1"], "command line: --lrr: no such option; the closest: --lr"),
        (["--zeta", "1"], "command line: --zeta: no such option"),
        (["-x"], "command line: -x: no such option; --help lists them"),
        (["--embed", "128"], "command line: --embed: no such option; the closest: --embed_size"),
        (["--lr"], "command line: --lr: expected a value"),
        (["--lr", "1", "2"], "command line: --lr: unexpected value '2'"),
        (["--lr_drops", "3", "-1e4"], "command line: --lr_drops: expected a whole number >= 1, got '-1e4'"),
        (["--lr_drops", "3,6"], f"command line: --lr_drops: {WHOLE}, got '3,6'; several values are written 3 6"),
        (["--"], "command line: --: no such option"),
        (["@"], "command line: '@' stands alone"),
        (["@no_such.yml"], "no_such.yml: can't be read: No such file or directory"),
        (["@/"], "/: can't be read: Is a directory"),
        (["@a\0b"], "a?b: not valid YAML: embedded null byte"),
        (["@/dev/null", "word"], "command line: 'word': belongs to no option"),
        (["--device", "1"], f"command line: --device: {LAUNCH} CUDA_VISIBLE_DEVICES=1 python train.py ..."),
        (["--devices", "0", "1"], f"command line: --devices: {LAUNCH} CUDA_VISIBLE_DEVICES=0,1 torchrun"),
        (["--device", "gpu"], "command line: --device: invalid choice: 'gpu'"),
    ],
)  # fmt: skip
def test_what_is_wrong_on_the_command_line_is_named(argv: list[str], message: str) -> None:
    first, *others = problems(*DATA, *argv)
    assert first.startswith(message)
    assert not others


def test_the_ancestors_devices_in_a_file_are_answered_with_the_launch_line(
    config: Callable[..., str],
) -> None:
    command = "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 train.py ..."
    assert problems(*DATA, config("devices: [0, 1]"))[0].endswith(command)
    assert problems("--snap=a", "--device=1", of=evaluation_options)[0].endswith("python evaluate_lfw.py ...")


def test_all_problems_come_out_together(config: Callable[..., str]) -> None:
    file = config("lrr: 1\nlr: abc\nlr_drops: [3, 3]\n")
    assert problems(
        "--m", "x", file, "--val_list", "p", "--train_list", "$UNSET_LIST", "--train_landmarks", "l"
    ) == (
        "command line: --m: expected auto or a number >= 0, got 'x'",
        "x.yml:1: lrr: no such option; the closest: lr, lr_power",
        "x.yml:2: lr: expected a number > 0, got 'abc'",
        "command line: --train_list: the environment variable $UNSET_LIST in '$UNSET_LIST' isn't set; "
        "before this command: export UNSET_LIST=…, or write $$ for a plain $",
        "--train_data_root is required",  # but not --train_list, which was given
        f"{LFW}: give all three, a list without landmarks (aligned crops), or the folder of a whole set alone; "
        "empty: --val_data_root",
        "x.yml:3: --lr_drops: [3, 3] must increase",
    )


def test_a_verification_set_needs_its_folder_and_landmarks_a_list() -> None:
    """The folder of a whole set is enough alone, as for evaluate_lfw.py; without landmarks the images are crops."""
    root, pairs, landmarks = ["--val_data_root", "r"], ["--val_list", "p"], ["--val_landmarks", "l"]
    for words in ([], root, root + pairs, root + pairs + landmarks):
        train_options([*DATA, *words])
    for words, empty in (
        (pairs, "--val_data_root"),
        (pairs + landmarks, "--val_data_root"),
        (landmarks, "--val_data_root, --val_list"),
        (root + landmarks, "--val_list"),
    ):
        (problem,) = problems(*DATA, *words)
        assert problem.startswith(f"{LFW}: give all three") and problem.endswith(f"; empty: {empty}")


def test_an_unreadable_file_is_not_followed_by_what_it_may_have_held(config: Callable[..., str]) -> None:
    assert len(problems(config("- nothing"))) == 1


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lr", "1e-9", "0"), ("momentum", "0", "1"), ("momentum", ".99", "-.1"),
        ("weight_decay", "0", "-1e-4"), ("s", "1", "0"), ("m", "0", "-.1"), ("clip_norm", "0", "-1"),
        ("clip_norm", "5", "nan"),
        ("flip_prob", "1", "1.1"), ("rotate_prob", "0", "-1"), ("cutout_prob", "1", "2"),
        ("blur_prob", "0", "7"), ("rotate_degrees", "180", "181"), ("train_batch_size", "1", "0"),
        ("val_batch_size", "0", "-1"),
        ("val_step", "0", "-1"), ("log_step", "1", "0"), ("accumulate", "1", "0"),
        ("epoch_total_num", "1", "0"), ("max_iterations", "0", "-1"), ("embed_size", "1", "0"),
        ("warmup_iterations", "0", "-1"),
        ("warmup_epochs", "0", "-1"),
        ("dali_threads", "0", "-1"), ("lr_drops", "1", "0"), ("input_size", "32", "16"),
        ("seed", "4294967295", "4294967296"), ("seed", "0", "-1"),
        ("snap_prefix", "a.b", "a/b"),
        ("snap_prefix", "a", ""), ("snap_folder", "a", ""), ("train_data_root", "a", ""),
    ],
)  # fmt: skip
def test_ranges(name: str, good: str, bad: str) -> None:
    train_options([*DATA, f"--{name}", good])
    (problem,) = problems(*DATA, f"--{name}={bad}")
    assert problem.startswith(f"command line: --{name}: expected ")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (
            "--images_per_identity 4",
            "--images_per_identity: 4 of each don't fill a --train_batch_size of 170; the nearest that do: 168 and 172",
        ),
        (
            "--images_per_identity 4 --train_batch_size 24 --accumulate 4",
            "--images_per_identity: 4 of each don't fill a --train_batch_size of 24 in 4 parts (--accumulate); "
            "the nearest that do: 16 and 32",
        ),
        ("--weighted --images_per_identity 5", "--weighted: no effect with --images_per_identity"),
    ],
)
def test_orders_that_contradict_are_refused(argv: str, problem: str) -> None:
    (found,) = problems(*DATA, *argv.split())
    assert found.startswith(f"command line: {problem}")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("--partial", "--partial: no effect without --init_from"),
        ("--optimizer adamw --momentum 0.8", "--momentum: goes with --optimizer sgd; here adamw"),
        ("--betas 0.8 0.9", "--betas: goes with --optimizer adam, adamw; here sgd"),
        ("--eps 1e-6", "--eps: goes with --optimizer adam, adamw; here sgd"),
        ("--lr_schedule cosine --lr_power 1", "--lr_power: goes with --lr_schedule poly; here cosine"),
        ("--lr_end 0.01", "--lr_end: goes with --lr_schedule poly, cosine; here step"),
        ("--init_identities names.txt", "--init_identities: no effect without --init_from"),
        ("--pretrained --model resnet34 --init_from a.pt", "--pretrained: not with --init_from"),
        ("--pretrained", "--pretrained: goes with --model resnet34, resnet50, resnet101, timm/NAME; here mobilenet"),
    ],
)
def test_options_that_contradict_others_are_refused(argv: str, problem: str) -> None:
    (found,) = problems(*DATA, *argv.split())
    assert found.startswith(f"command line: {problem}")
    train_options([*DATA, "--init_from", "a.pt", "--partial", "--init_identities", "names.txt"])
    for name in ("resnet50", "timm/any"):
        train_options([*DATA, "--pretrained", "--model", name])


def test_settings_of_a_network_are_keywords_with_builtins_as_values() -> None:
    words = ["patch_size=8", "rate=0.1", "class_token=false", "size=[7, 7]", "window=7,6", "act=silu", "norm=none"]
    assert keyword_arguments(value("model_kwargs", "--model_kwargs", *words)) == {
        **{"patch_size": 8, "rate": 0.1, "class_token": False, "size": [7, 7], "window": [7, 6]},
        **{"act": "silu", "norm": None},
    }
    for word in ("patch_size", "=8", "patch_size=", "patch size=8"):
        (problem,) = problems(*DATA, "--model_kwargs", word)
        assert problem == f"command line: --model_kwargs: expected KEY=VALUE, got {word!r}"
    (problem,) = problems(*DATA, "--model_kwargs", "depth=3", "depth=4")
    assert problem == "command line: --model_kwargs: more than one value of depth"


def test_batch_sizes_that_do_not_divide_are_answered_with_the_nearest_that_do() -> None:
    check("--accumulate 2 --train_batch_size 512", 4)
    with pytest.raises(InputError, match=r"--train_batch_size 170 .* nearest that do: 168 and 176"):
        check("--accumulate 2 --train_batch_size 170", 4)
    with pytest.raises(InputError, match=r"nearest that do: 8$"):
        check("--accumulate 2 --train_batch_size 3", 4)


texts = st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), max_size=20)  # ~ is the home


@PROPERTY
@given(folder=texts, drops=st.sets(st.integers(1, 99)), lr=st.floats(1e-300, 1e300), flag=st.booleans())
def test_a_written_file_reads_back_as_the_same_values(
    tmp_path: Path, folder: str, drops: set[int], lr: float, flag: bool
) -> None:
    argv = [*DATA, "--log_folder=" + folder.replace("$", "$$"), f"--lr={lr!r}", f"--flipped_emb={flag}"]
    resolved = train_options([*argv, "--lr_drops", *map(str, sorted(drops))])
    assert resolved.values.log_folder == folder
    resolved.write(tmp_path / "run.yml")
    again = train_options([f"@{tmp_path / 'run.yml'}"])
    assert again.as_dict() == resolved.as_dict()
    assert again.origins["lr"].startswith(f"{tmp_path}/run.yml:")


def test_the_table_is_aligned_and_says_where_each_changed_value_was_set(config: Callable[..., str]) -> None:
    resolved = train_options([*DATA, config("# comment\nlr: .1\nmomentum: 0.9\n")])
    lines = resolved.table().splitlines()
    assert "momentum" in resolved.as_dict()  # which is set to its default
    assert [line.split()[0] for line in lines] == [*(name[2:] for name in DATA[::2]), "lr"]
    assert len({line.index(" = ") for line in lines}) == len({line.rindex("   (") for line in lines}) == 1
    assert any(re.fullmatch(r"lr +=  ?0\.1 +\(x\.yml:2\)", line) for line in lines)
    resolved.write("run.yml")
    assert "lr: 0.1  # x.yml:2\n" in Path("run.yml").read_text()


def test_adam_has_two_averages() -> None:
    adam = ["--optimizer", "adam"]
    assert problems(*DATA, *adam, "--betas", "0.9") == ("command line: --betas: takes 2 values, got 1",)
    assert train_options([*DATA, *adam, "--betas", "0.8", "0.99"]).values.betas == [0.8, 0.99]


def test_as_dict_shares_nothing_with_the_values() -> None:
    resolved = train_options(DATA)
    resolved.as_dict()["lr_drops"].append(99)  # type: ignore[union-attr, arg-type]
    assert resolved.values.lr_drops == [3, 6, 9, 13] == train_options(DATA).values.lr_drops


yaml_keys = (
    st.sampled_from(["lr", "lr_drops", "flipped_emb", "snap_prefix", "device", "devices", "x"]) | st.text()
)
yaml_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.dates() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)
# A lone surrogate can't be written as UTF-8; YAML's own escape for it is among the cases above.
yaml_files = st.dictionaries(yaml_keys, yaml_values, max_size=4).map(
    lambda content: yaml.safe_dump(content).encode(errors="replace")
)
yaml_fragments = st.lists(
    st.sampled_from(
        [*"[]{}:,-?&*!|>'\"%@#\n\t \\$", "lr", "a", "1", "~", "<<", "$$", "${A}", "...\n", "---\n"]
    )
).map(lambda parts: "".join(parts).encode())


@PROPERTY
@given(st.binary() | yaml_files | yaml_fragments)
def test_any_file_gives_options_or_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.yml").write_bytes(content)
    with contextlib.suppress(InputError):
        resolved = train_options([*DATA, f"@{tmp_path / 'any.yml'}"])
        resolved.write(tmp_path / "again.yml")


words = st.sampled_from(
    ["--lr", "-m", "--lr_drops", "--flipped_emb", "--", "-", "@", "@/dev/null", "1", "-1"]
)


@PROPERTY
@given(st.lists(words | st.text().filter(lambda word: word not in ("-h", "--help")), max_size=6))
def test_any_command_line_gives_options_or_input_error(argv: list[str]) -> None:
    for options in (train_options, evaluation_options):
        with contextlib.suppress(InputError):
            options(argv)


def test_undecodable_arguments_are_refused_in_printable_words() -> None:
    word = os.fsdecode(b"\xff")
    for problem in problems(*DATA, "--log_folder", word, f"--{word}", f"@{word}", "--m", word):
        problem.encode()


@pytest.mark.parametrize(
    ("words", "pointer"),
    [
        (
            ["--opt", "sgd"],
            "command line: --opt: no such option; here it is --optimizer",
        ),
        (["--epochs", "3"], "command line: --epochs: no such option; here it is --epoch_total_num"),
        (["--pre-trained", "x"], "command line: --pre-trained: no such option; here it is --init_from"),
        (["--learning_rate", "1"], "command line: --learning_rate: no such option; here it is --lr"),
        (
            ["--gpu", "1"],
            "command line: --gpu: choose the GPUs at the launch: CUDA_VISIBLE_DEVICES=1 python train.py ...",
        ),
    ],
)
def test_options_of_other_systems_get_a_pointer(words: list[str], pointer: str) -> None:
    assert problems(*DATA, *words) == (pointer,)


def test_pointers_name_options_that_exist_and_hide_none() -> None:
    known = train_options(DATA).as_dict() | evaluation_options(["--snap", "x.pt"]).as_dict()
    tools = " ".join(path.read_text() for path in (ROOT / "tools/options").glob("*.py"))
    for name, pointer in ELSEWHERE.items():
        for option in re.findall(r"--(\w+)", pointer):
            assert option in known or f'"--{option}"' in tools, (name, option)
    assert not ELSEWHERE.keys() & known.keys()
    found = problems(*DATA, "--network", "r50", "--fp16", "--num_epoch", "20", "--margin_list", "1.0,0.5,0.0")
    assert "command line: --network: no such option; here it is --model, with r50 = iresnet50" in found
    pointers = [line.partition("here it is --")[2] for line in found]
    assert [pointer.partition(",")[0] for pointer in pointers[1:]] == ["precision", "epoch_total_num", "margin_type"]
    with pytest.raises(InputError, match="no such option; the closest: --val_batch_size"):
        evaluation_options(["--snap", "x.pt", "--batch_size", "3"])  # which has no --train_batch_size


@pytest.mark.parametrize("word", ["false", "False", "off", "no"])
def test_landmarks_of_a_recipe_stay_unless_crops_are_aligned(word: str, config: Callable[..., str]) -> None:
    recipe = config("train_dataset: vgg\ntrain_list: l.txt\ntrain_landmarks: bb\n")
    options = train_options([recipe, "--train_data_root", "r", "--aligned", word]).values
    assert (options.train_landmarks, options.aligned) == ("bb", False)


RECIPE = "train_dataset: vgg\ntrain_list: $UNSET/l.txt\ntrain_landmarks: $UNSET/bb\ntrain_meta: meta.csv\n"
LFW_OF_RECIPE = "val_data_root: $UNSET/lfw\nval_set: lfw\nval_list: pairs.txt\nval_landmarks: marks.txt\n"


@pytest.mark.parametrize(
    ("words", "left", "notes"),
    [
        (
            ["--train_dataset", "folder", "--aligned"],
            {"train_list": "", "train_landmarks": "", "train_meta": "", "aligned": True},
            [
                "not used with --train_dataset folder: --train_list (x.yml:2), --train_meta (x.yml:4)",
                "not used with --aligned: --train_landmarks (x.yml:3)",
            ],
        ),
        (
            ["--train_dataset", "tar"],  # which can have a list, but of shards
            {"train_list": "", "train_landmarks": "", "train_meta": ""},
            [
                "not used with --train_dataset tar: "
                "--train_list (x.yml:2), --train_landmarks (x.yml:3), --train_meta (x.yml:4)"
            ],
        ),
        (
            ["--train_dataset", "vgg", "--train_list", "own.txt", "--train_landmarks", "own"],
            {"train_list": "own.txt", "train_landmarks": "own", "train_meta": "meta.csv"},
            [],
        ),
    ],
)
def test_data_of_a_recipe_that_the_command_line_replaces_are_dropped(
    words: list[str], left: dict[str, object], notes: list[str], config: Callable[..., str]
) -> None:
    resolved = train_options([config(RECIPE), "--train_data_root", "own", *words])
    assert {name: resolved.as_dict()[name] for name in left} == left
    assert resolved.notes == notes


def test_val_sets_alone_switch_the_lfw_of_a_recipe_off(config: Callable[..., str]) -> None:
    recipe = config(RECIPE.replace("$UNSET", "here") + LFW_OF_RECIPE)
    resolved = train_options([recipe, "--train_data_root", "own", "--val_sets", "own.bin"])
    values = resolved.as_dict()
    assert [values[name] for name in ("val_data_root", "val_set", "val_list", "val_landmarks")] == ["", "auto", "", ""]
    assert resolved.notes == [
        "not used with --val_sets: "
        "--val_data_root (x.yml:5), --val_set (x.yml:6), --val_list (x.yml:7), --val_landmarks (x.yml:8)"
    ]
    both = ["--val_sets", "own.bin", "--val_data_root", "lfw"]
    assert train_options([recipe, "--train_data_root", "own", *both]).values.val_list == "pairs.txt"


def test_a_file_of_the_command_line_keeps_its_list_for_another_format(config: Callable[..., str]) -> None:
    options = [config("train_list: own.txt\n"), "--train_dataset", "list", "--aligned", "--train_data_root", "own"]
    assert train_options(options).values.train_list == "own.txt"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_complete_and_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$(\w+)", path.read_text()):
        monkeypatch.setenv(name, f"/{name}")
    resolved = train_options([f"@{path}"])
    assert resolved.values.snap_prefix == path.stem
    assert {name for name, origin in resolved.origins.items() if origin == "default"} <= NOT_IN_RECIPES
    header = path.read_text().split("\n\n")[0]
    assert f"train.py @configs/{path.name}" in header
    assert all(f"# {word}:" in header for word in ("launch", "data", "score", "cost"))


@pytest.mark.parametrize(
    ("options", "required"), [(train_options, DATA), (evaluation_options, ["--snap", "a.pt"])]
)
def test_help_gives_a_default_and_a_unit_or_choices_for_every_option(
    options: Callable[[list[str]], Resolved],
    required: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        options(["--lrr", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    entries = re.split(r"\n  (?=--)", out)[1:]
    assert len(entries) == len(options(required).as_dict())
    begin = out.partition("to begin with:\n")[2].partition("\n\n")[0]
    assert len(re.findall(r"^  --", begin, re.MULTILINE)) == 10 and required[0] in begin
    for entry in entries:
        text = entry.split("\n\n")[0]
        assert re.search(r"\((default: .*|required)\)$", text), text
        if re.search(r"default: [\d.]+\)$", text):
            assert re.search(r"\[[\w :,-]+\]", text), f"no unit: {text}"


def test_a_problem_without_end_is_told_in_a_few_thousand_letters(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: list[str]) -> int:
        raise InputError("x" * 10_000_000, "and another")

    with pytest.raises(SystemExit):
        run_plainly("train.py", main)
    printed = capsys.readouterr().err
    assert len(printed) < 5_000
    assert printed.endswith("x\ntrain.py: and another\n")


def test_usage_problems_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    problems("--lrr", "--lr", "x", "--device", "7", "--flipped_emb", "2", "--precision", "int8")
    assert capsys.readouterr() == ("", "")


def test_the_commands_of_the_documents_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in re.findall(r"\$(\w+)", "".join(path.read_text() for path in CONFIGS.glob("*.yml"))):
        monkeypatch.setenv(name, f"/{name}")
    documents = [ROOT / "README.md", ROOT / "configs/README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(path.read_text() for path in documents).replace("\\\n", " ")
    indented = (line for line in text.splitlines() if line.strip().startswith(("python ", "torchrun ")))
    lines = [shlex.split(line, comments=True) for line in indented]
    read = {"train.py": train_options, "evaluate_lfw.py": evaluation_options}
    commands = [(read[word], line[at + 1 :]) for line in lines for at, word in enumerate(line[:5]) if word in read]
    commands = [(options, words) for options, words in commands if not any("[" in word for word in words)]
    assert len(commands) > 12
    for options, words in commands:
        if any(word.startswith("@configs/") or word == "--snap" for word in words):
            assert options(words).values


@pytest.mark.parametrize(
    ("tool", "own", "passed"),
    [
        ("check_dataset", "OUT", ["--mean", "-1e-3", "0", "1", *DATA]),
        ("choose_threshold", "PEOPLE out.json --fmr 0.1", ["--snap", "a.pt", "--flipped_emb", "--color_order", "bgr"]),
        ("compare_models", "a.pt b.pt", ["--val_data_root", "R", "--flipped_emb", "true", "--center"]),
        ("evaluate_ijb", "FOLDER", ["--snap", "a.pt", "--flipped_emb", "--json", "j.json"]),
        ("evaluate_tinyface", "FOLDER", ["--snap", "a.pt", "--flipped_emb", "--averaged", "no"]),
        ("report_runs", "a.yml b.yml --out OUT", ["--val_data_root", "R", "--flipped_emb"]),
        ("reproduce", "configs/quickstart.yml", ["--lr", "0.1", "-m", "0.3", "--ema_decay", "0.9", "--aligned"]),
    ],
)
def test_arguments_of_a_tool_and_options_of_its_program_come_in_any_order(
    tool: str, own: str, passed: list[str]
) -> None:
    module = importlib.import_module(f"tools.options.{tool}")
    words = own.split()

    def read(argv: list[str]) -> str:
        return str(module.options(argv)).replace("\'", '"')

    behind = read([*words, *passed])
    assert read([*passed, *words]) == behind  # argparse alone: FOLDER is the value of --snap, a.pt the folder
    assert read([*passed, *words[:1], *passed, *words[1:]]).count(words[0]) == behind.count(words[0])


def test_a_word_too_many_before_the_options_of_another_program_is_refused() -> None:
    from tools.options.evaluate_tinyface import options

    for argv in (["FOLDER", "x", "--snap", "a.pt"], ["FOLDER", "--snap", "a.pt", "x"], ["--snap", "a.pt", "F", "x"]):
        with pytest.raises(InputError, match="'x': belongs to no option"):
            options(argv)
    with pytest.raises(InputError, match="--flipped_embs: no such option; the closest: --flipped_emb"):
        options(["--flipped_embs", "FOLDER", "--snap", "a.pt"])


def test_curves_to_plot_may_stand_on_both_sides_of_the_options() -> None:
    from tools.options.plot_roc import options

    assert options(["a.txt", "--out", "x.png", "b.txt"]) == options(["a.txt", "b.txt", "--out", "x.png"])
