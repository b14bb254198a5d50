"""Options of the losses: their ranges, which of them go together, and that a written file gives them back."""

from dataclasses import fields
from pathlib import Path

import pytest

from fr.errors import InputError
from fr.options.definitions import train_options
from fr.options.losses import MARGINS, LossSettings

DATA = ["--train_data_root", "root", "--train_list", "list.txt", "--train_landmarks", "csv"]
WEIGHTS = ("center", "push", "push_plus", "global_push", "min_margin", "triplet")
DISTILLATION = tuple(f"distill_{name}_weight" for name in ("cosine", "mse", "relation", "logit"))

# (option, a value that isn't its default, the option it goes with, the values of that which it goes with)
GOES_WITH = [
    ("m", "1.2", "margin_type", "cos arc sphere sphere_r ada curricular"),
    ("easy_margin", "true", "margin_type", "arc"),
    ("m1", "1.1", "margin_type", "combined"),
    ("m2", "0.1", "margin_type", "combined"),
    ("m3", "0.1", "margin_type", "combined"),
    ("h", "0.5", "margin_type", "ada"),
    ("l_m", "0.3", "margin_type", "mag"),
    ("u_m", "0.9", "margin_type", "mag"),
    ("l_a", "5", "margin_type", "mag"),
    ("u_a", "50", "margin_type", "mag"),
    ("lambda_g", "1", "margin_type", "mag"),
    ("margin_gradient", "straight", "margin_type", "arc sphere sphere_r combined ada curricular mag"),
    ("t", "1.3", "mining_type", "sv"),
    ("gamma", "3", "mining_type", "focal"),
]
CHOICES = {"margin_type": MARGINS, "mining_type": ("none", "sv", "focal")}
# (option, a value that isn't its default, the weights of which one must not be 0)
NEEDS_WEIGHT = [
    ("center_loss_lr", "0.1", ("center",)),
    ("push_margin", "0.5", ("push", "push_plus", "global_push")),
    ("min_margin", "0.5", ("min_margin",)),
    ("triplet_margin", "0.5", ("triplet",)),
    ("triplet_mining", "semihard", ("triplet",)),
]
PARTNER = {name: f"--{other}={right.split()[0]}" for name, _, other, right in GOES_WITH}
PARTNER |= {name: f"--{weights[0]}_loss_weight=1" for name, _, weights in NEEDS_WEIGHT}


def loss(*argv: str) -> LossSettings:
    return LossSettings.from_options(train_options([*DATA, *argv]).values)


def problems(*argv: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        train_options([*DATA, *argv])
    return error.value.problems


def file(folder: Path, text: str) -> str:
    (folder / "x.yml").write_text(text)
    return f"@{folder / 'x.yml'}"


def test_these_tables_have_every_option_of_a_loss() -> None:
    alone = {"margin_type", "softmax_weight", "s", "mining_type", "label_smoothing", "sub_centers", "sample_rate"}
    alone |= {"teacher", "distill_temperature"} | {f"{name}_loss_weight" for name in WEIGHTS}.union(DISTILLATION)
    assert {field.name for field in fields(LossSettings)} == alone | PARTNER.keys()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("m", "auto 0 1.5", "-0.1 automatic nan inf"),
        ("easy_margin", "true false", "2"),
        ("m1", "1 2.5", "0.99 0 nan"),
        ("m2", "0 0.3", "-0.1 inf"),
        ("m3", "0 0.3", "-0.1 x"),
        ("h", "0.01 1", "0 -1"),
        ("l_m", "0 0.7", "-0.1"),
        ("u_m", "0.5 1.5", "-0.1 nan"),
        ("l_a", "0.1 109", "0 -5"),
        ("u_a", "11 1e3", "0 inf"),
        ("lambda_g", "0 35", "-1"),
        ("margin_gradient", "true straight", "false"),
        ("mining_type", "none sv focal", "hard"),
        ("t", "1 1.5", "0.9 nan"),
        ("gamma", "1 5", "0.5 0"),
        ("label_smoothing", "0 0.99", "1 -0.1 nan"),
        ("sub_centers", "1 3 255", "0 256 1.5"),
        ("sample_rate", "0.001 1", "0 1.1 -1"),
        ("softmax_weight", "0.5 10", "-1 nan"),
        *((f"{name}_loss_weight", "0 1e-3 10", "-1 nan") for name in WEIGHTS),
        *((name, "0", "-1 nan") for name in DISTILLATION),
        ("center_loss_lr", "0.1 1", "0 -1"),
        ("push_margin", "0.1 1.5", "0 -1"),
        ("min_margin", "0.1 1.5", "0 -1"),
        ("triplet_margin", "0.1 1.5", "0 -1"),
        ("triplet_mining", "hard semihard", "easy"),
        ("max_bad_steps", "0 1 100", "-1 1.5"),
        ("max_bad_images", "0 1 100", "-1 1.5"),
    ],
)
def test_ranges(name: str, good: str, bad: str) -> None:
    partner = PARTNER.get(name, "--seed=0")
    for word in good.split():
        train_options([*DATA, partner, f"--{name}={word}"])
    for word in bad.split():
        (problem,) = problems(partner, f"--{name}={word}")
        assert problem.startswith((f"command line: --{name}: expected ", f"command line: --{name}: invalid choice: "))
        assert repr(word) in problem


# --- auto -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin_type", "figure"),
    [("cos", 0.35), ("arc", 0.5), ("sphere", 4), ("sphere_r", 1.5), ("ada", 0.4), ("curricular", 0.5)],
)
def test_auto_is_the_margin_of_the_types_paper(margin_type: str, figure: float) -> None:
    kind = f"--margin_type={margin_type}"
    assert loss(kind).m == loss(kind, "-m", "auto").m == "auto"
    assert loss(kind, "--m", "auto").margin == figure
    assert loss(kind, "--m", "1.25").margin == 1.25


@pytest.mark.parametrize("margin_type", MARGINS)
def test_auto_suits_every_margin_type(margin_type: str) -> None:
    assert loss(f"--margin_type={margin_type}", "--m", "0.2", "--m", "auto").m == "auto"


# --- what goes with what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changed", "other", "right"), GOES_WITH)
def test_an_option_goes_with_some_values_of_another_alone(
    name: str, changed: str, other: str, right: str, tmp_path: Path
) -> None:
    config = file(tmp_path, f"seed: 1\n{name}: {changed}\n")
    for choice in CHOICES[other]:
        if choice in right.split():
            assert str(getattr(loss(config, f"--{other}={choice}"), name)).lower() in (changed, f"{changed}.0")
        else:
            listed = ", ".join(right.split())
            assert problems(config, f"--{other}={choice}") == (
                f"{tmp_path}/x.yml:2: --{name}: goes with --{other} {listed}; here {choice}",
            )


@pytest.mark.parametrize(("name", "changed", "weights"), NEEDS_WEIGHT)
def test_an_option_of_an_auxiliary_loss_needs_its_weight(
    name: str, changed: str, weights: tuple[str, ...], tmp_path: Path
) -> None:
    config = file(tmp_path, f"seed: 1\n{name}: {changed}\n")
    listed = [f"--{weight}_loss_weight" for weight in weights]
    refusal = (f"{tmp_path}/x.yml:2: --{name}: no effect while 0: {', '.join(listed)}",)
    assert problems(config) == refusal
    for weight in WEIGHTS:
        if weight in weights:
            assert str(getattr(loss(config, f"--{weight}_loss_weight=0.1"), name)) == changed
        else:
            assert problems(config, f"--{weight}_loss_weight=0.1") == refusal


def test_a_teacher_and_the_losses_that_compare_with_it_need_each_other() -> None:
    listed = ", ".join(f"--{name}" for name in DISTILLATION)
    assert problems("--teacher=x.pt") == (f"command line: --teacher: no effect while 0: {listed}",)
    for name in DISTILLATION:
        assert problems(f"--{name}=1") == (f"command line: --{name}: no effect without --teacher",)
        assert getattr(loss("--teacher=x.pt", f"--{name}=2.5", "--softmax_weight=0"), name) == 2.5
    assert problems("--distill_temperature=2", "--teacher=x.pt", "--distill_mse_weight=1") == (
        "command line: --distill_temperature: no effect while 0: --distill_logit_weight",
    )


def test_blends_of_images_are_for_a_teacher_alone() -> None:
    assert problems("--mix_prob=.5") == (
        "command line: --mix_prob: no effect without --teacher",
        "command line: --mix_prob: a blend of two images has no label: goes with --softmax_weight 0",
    )
    loss("--mix_prob=.5", "--teacher=x.pt", "--distill_mse_weight=1", "--softmax_weight=0")


def test_an_option_that_has_its_default_goes_with_everything() -> None:
    defaults = train_options(DATA).as_dict()
    argv = [f"--{name}={defaults[name]}" for name in PARTNER]
    for margin_type in MARGINS:
        assert loss(*argv, f"--margin_type={margin_type}").margin_type == margin_type
    assert loss(*argv, "--mining_type=sv").mining_type == "sv"


def test_what_was_refused_itself_is_no_reason_for_more_refusals() -> None:
    for argv in (
        ["--margin_type=spheric", "--h=0.5", "--l_m=0.1", "--m=3"],
        ["--mining_type=hard", "--t=2", "--gamma=3"],
        ["--center_loss_weight=-1", "--center_loss_lr=0.1"],
        ["--margin_type=arc", "--m=x"],
        ["--margin_type=mag", "--l_m=x"],
        ["--margin_type=mag", "--u_m=x"],
        ["--margin_type=mag", "--u_a=0"],
    ):
        assert len(problems(*argv)) == 1, argv


def test_all_that_does_not_go_together_comes_out_together() -> None:
    told = problems("--h=0.5", "--t=2", "--triplet_margin=1", "--mining_type=focal", "--label_smoothing=0.1")
    assert [problem.split(": ")[1] for problem in told] == ["--h", "--t", "--triplet_margin", "--label_smoothing"]


# --- two that contradict each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("--softmax_weight=0", "--softmax_weight: 0 leaves no loss; give one of the auxiliary losses a weight"),
        (
            "--margin_type=curricular --mining_type=sv",
            "--mining_type: sv and --margin_type curricular both weigh the same hard classes; choose one",
        ),
        (
            "--mining_type=focal --label_smoothing=0.1",
            "--label_smoothing: not with --mining_type focal, whose weight is a probability of the label alone",
        ),
        ("--margin_type=mag --l_m=0.9", "--l_m: 0.9 must be less than --u_m 0.8"),
        ("--margin_type=mag --l_m=0.8", "--l_m: 0.8 must be less than --u_m 0.8"),
        ("--margin_type=mag --u_m=0.3", "--u_m: 0.3 must be more than --l_m 0.45"),
        ("--m=35", "--m: 35.0 is more than cosines differ; cos takes up to 2"),
        ("--margin_type=combined --m2=28", "--m2: 28.0 radians is more than a right angle; combined takes up to 1.57"),
        ("--margin_type=combined --m3=20", "--m3: 20.0 is more than cosines differ; combined takes up to 2"),
        ("--margin_type=ada --m=28", "--m: 28.0 radians is more than a right angle; ada takes up to 1.57"),
        ("--margin_type=mag --l_a=110", "--l_a: 110.0 must be less than --u_a 110.0"),
        ("--margin_type=mag --l_a=10 --u_a=2", "--l_a: 10.0 must be less than --u_a 2.0"),
        ("--margin_type=sphere --m=0.99", "--m: 0.99 would help the target; sphere multiplies the angle by 1 or more"),
        ("--margin_type=sphere_r --m=0", "--m: 0.0 would help the target; sphere_r multiplies the angle by 1 or more"),
        # Far beyond, at 2.33, the logit would no longer fall with the angle; what is meant is probably degrees.
        ("--margin_type=arc --m=28.6", "--m: 28.6 radians is more than a right angle; arc takes up to 1.57"),
        ("--margin_type=curricular --m=2", "--m: 2.0 radians is more than a right angle; curricular takes up to 1.57"),
        ("--margin_type=mag --u_m=1.58", "--u_m: 1.58 radians is more than a right angle; mag takes up to 1.57"),
    ],
)
def test_options_that_contradict_each_other_are_refused(argv: str, problem: str) -> None:
    assert problems(*argv.split()) == (f"command line: {problem}",)


@pytest.mark.parametrize(
    "argv",
    [
        *("--margin_type=arc --m=1.57", "--margin_type=curricular --m=1.57", "--margin_type=mag --u_m=1.57"),
        *("--margin_type=cos --m=1.9", "--margin_type=sphere --m=1", "--margin_type=sphere_r --m=1"),
        *("--margin_type=arc --m=0", "--margin_type=curricular --mining_type=focal", "--margin_type=mag --l_m=0.79"),
        *("--margin_type=mag --l_a=109", "--margin_type=arc --mining_type=sv --label_smoothing=0.1"),
    ],
)
def test_their_neighbours_are_accepted(argv: str) -> None:
    loss(*argv.split())


# --- written and read back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        "--margin_type=arc --m=0.45 --easy_margin --margin_gradient=straight --mining_type=sv --t=1.3",
        "--margin_type=combined --m1=1.1 --m2=0.25 --m3=0.05 --mining_type=focal --gamma=3.5",
        "--margin_type=ada --m=auto --h=0.3 --label_smoothing=0.1 --sub_centers=3 --sample_rate=0.3",
        "--margin_type=mag --l_m=0.4 --u_m=0.9 --l_a=5 --u_a=50 --lambda_g=1e-3 --max_bad_steps=0",
        "--margin_type=softmax --center_loss_weight=3e-3 --center_loss_lr=0.1 --push_loss_weight=.1 --push_margin=.5",
        "--push_plus_loss_weight=.2 --global_push_loss_weight=.3 --min_margin_loss_weight=.4 --min_margin=.9",
        "--triplet_loss_weight=1 --triplet_margin=.3 --triplet_mining=semihard",
        "--teacher=x.onnx --distill_cosine_weight=2 --distill_mse_weight=.1 --distill_relation_weight=3",
        "--teacher=x.pt --distill_logit_weight=2 --distill_temperature=1.5",
    ],
)
def test_a_written_file_reads_back_as_the_same_losses(argv: str, tmp_path: Path) -> None:
    resolved = train_options([*DATA, *argv.split()])
    given = {word.split("=")[0].removeprefix("--") for word in argv.split()}
    assert {name for name, origin in resolved.origins.items() if origin == "command line"} > given
    resolved.write(tmp_path / "run.yml")
    again = train_options([f"@{tmp_path / 'run.yml'}"])
    assert again.as_dict() == resolved.as_dict()
    assert LossSettings.from_options(again.values) == LossSettings.from_options(resolved.values) != loss()
