"""Export to ONNX and back: same numbers as PyTorch, nothing half-written, foreign files scored or refused by name."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import evaluate_lfw
from fr.errors import InputError
from fr.evaluation.score_check import Spread
from fr.evaluation.scored_model import open_model
from fr.files.model_metadata import CONTRACT_KEY, FACTS_KEY
from fr.models import MODELS, build_model
from fr.models.family import Family
from fr.onnx.export import difference, random_pixels
from fr.onnx.model import OnnxModel
from fr.options.definitions import evaluation_options
from fr.preprocessing import Preprocessing
from tests.builders.onnx_files import (
    foreign,
)
from tests.builders.ranks import launch_forked
from tests.conftest import ROOT, launch, validation_options
from tools import compare_models, export_onnx

CPU = torch.device("cpu")
# Of weights and of their average, on a set that isn't scored here.
SPREADS = [Spread("a", "1", of_average, "", 10, (0.9, 0.1), (1.0, 0.1), (0.5,) * 64) for of_average in (False, True)]
# Another channel order and other numbers than the defaults, so that a mix-up shows.
CONTRACT = Preprocessing((32, 48), "arcface", "umeyama", "bgr", (0.4, 0.45, 0.5), (0.2, 0.25, 0.3))
SAID = "--input_size 32 48 --template arcface --alignment umeyama --color_order bgr --mean .5 .45 .4 --std .3 .25 .2"


class Tiny(nn.Sequential):
    """A backbone that exports in a second, of the layers that the real ones are made of."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        places = input_size[0] // 16 * (input_size[1] // 16)
        first = [nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU()]
        last = [nn.Conv2d(8, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
        super().__init__(*first, *last, nn.Linear(16 * places, embed_size))


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", Family(Tiny, CONTRACT.input_size, 16))
        yield


def warmed(name: str, input_size: tuple[int, int]) -> nn.Module:
    """Random weights, with batch statistics halfway between 0 and 1 and those of some images.

    Not all the way: channels that hardly vary over a few images would blow up every rounding error.
    """
    torch.manual_seed(0)
    model = build_model(name, 16, input_size)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
    with torch.no_grad():
        model.train()(random_pixels(8, input_size) / 255)
    return model.eval()


@pytest.fixture(scope="module")
def snap(tiny: None, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot as train.py writes it, of a network that was only warmed up."""
    path = tmp_path_factory.mktemp("snap") / "t_7.pt"
    options = validation_options(sample_data)
    contents = {
        "format": 1, "model": "tiny", "embed_size": 16, "preprocessing": CONTRACT.as_dict(), "iteration": 7,
        "state_dict": warmed("tiny", CONTRACT.input_size).state_dict(), "metrics": {}, "run": {},
        "scores": [spread.as_dict() for spread in SPREADS],
        "config": {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
        | {"flipped_emb": True},
    }  # fmt: skip
    torch.save(contents, path)
    return path


@pytest.fixture(scope="module")
def exported(snap: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "t.onnx"
    export_onnx.main([str(snap), str(out)])
    return out


def figures(tmp_path: Path, *options: str) -> dict[str, float]:
    evaluate_lfw.main([*options, "--json", str(tmp_path / "figures.json")])
    values: dict[str, float] = json.loads((tmp_path / "figures.json").read_text())
    return values


# --- the export ------------------------------------------------------------------------------------------------------


@cache
def test_a_file_says_what_it_is_and_gives_the_metrics_of_its_snapshot(
    snap: Path, exported: Path, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = OnnxModel(exported, CPU)
    assert said.preprocessing == CONTRACT
    assert said.facts == {
        "model": "tiny", "embed_size": 16, "iteration": 7, "flipped_emb": True, "with_preprocessing": False,
        "l2_norm": False, "scores": [SPREADS[0].as_dict()],
    }  # fmt: skip
    assert str(sample_data).encode() not in exported.read_bytes()
    folder = ["--val_data_root", str(sample_data / "lfw")]
    expected = figures(tmp_path, "--snap", str(snap))
    capsys.readouterr()
    # Float32 rounding alone: 1e-6 on a cosine moves no pair across the threshold of these few.
    got = figures(tmp_path, "--snap", str(exported), *folder, "--report", str(tmp_path / "page"))
    assert got == pytest.approx(expected, abs=1e-5)
    assert "overrides" not in capsys.readouterr().out
    page = (tmp_path / "page" / "index.html").read_text()
    assert "tiny, 16 numbers" in page and "t.onnx" in page
    assert got != pytest.approx(figures(tmp_path, "--snap", str(exported), *folder, "--flipped_emb", "false"))


@pytest.mark.parametrize(("options", "threshold"), [([], 0.61), (["--averaged"], 0.64)])
def test_a_snapshot_and_its_export_say_the_threshold_of_the_validation(
    snap: Path, options: list[str], threshold: float, tmp_path: Path
) -> None:
    contents = torch.load(snap, weights_only=True)
    contents |= {"metrics": {"threshold": 0.61, "ema_threshold": 0.64}, "average": contents["state_dict"], "config": {}}
    torch.save(contents, tmp_path / "t_8.pt")
    export_onnx.main([str(tmp_path / "t_8.pt"), str(tmp_path / "t.onnx"), *options])

    def said(*words: str) -> float | None:
        return open_model(evaluation_options(["--snap", *words]).values, CPU).threshold

    assert said(str(tmp_path / "t_8.pt"), *options) == said(str(tmp_path / "t.onnx")) == threshold
    torch.save(contents | {"metrics": {}}, tmp_path / "t_9.pt")
    export_onnx.main([str(tmp_path / "t_9.pt"), str(tmp_path / "none.onnx"), *options])
    assert said(str(tmp_path / "t_9.pt"), *options) is None and said(str(tmp_path / "none.onnx")) is None


@pytest.mark.parametrize("options", [["--with_preprocessing"], ["--l2_norm"], ["--with_preprocessing", "--l2_norm"]])
def test_what_is_put_inside_equals_doing_it_outside(
    options: list[str], snap: Path, exported: Path, tmp_path: Path, sample_data: Path
) -> None:
    out = tmp_path / "inside.onnx"
    export_onnx.main([str(snap), str(out), *options])
    session = onnxruntime.InferenceSession(out)
    pixels = random_pixels(3, CONTRACT.input_size).numpy()
    mean, std = (np.array(of, dtype=np.float32).reshape(3, 1, 1) for of in (CONTRACT.mean, CONTRACT.std))
    outside = (pixels[:, ::-1] / 255 - mean) / std
    (got,) = session.run(None, {"images": pixels if "--with_preprocessing" in options else outside})
    (expected,) = onnxruntime.InferenceSession(exported).run(None, {"images": outside})
    if "--l2_norm" in options:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # float32
    # The stored contract makes evaluation feed either kind right.
    folder = ["--val_data_root", str(sample_data / "lfw"), "--flipped_emb", "false"]
    measured = [figures(tmp_path, "--snap", str(path), *folder)["auc"] for path in (out, exported)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)


def test_a_file_of_unit_vectors_keeps_only_what_is_true_of_it(
    snap: Path, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cosines of single images are those of the raw embeddings, of sums with mirror images aren't.

    A threshold and scores of flipped validation, .9067, were stored in a file that gives .9000, and nothing was said.
    """
    contents = torch.load(snap, weights_only=True)
    flipped = replace(SPREADS[0], flip="sum")
    contents |= {"metrics": {"threshold": 0.61}, "scores": [SPREADS[0].as_dict(), flipped.as_dict()]}
    folder = ["--val_data_root", str(sample_data / "lfw")]
    stored = {}
    for mirrored in (False, True):
        torch.save(contents | {"config": contents["config"] | {"flipped_emb": mirrored}}, tmp_path / "t_8.pt")
        for options in ([], ["--l2_norm"]):
            out = tmp_path / f"{mirrored}{len(options)}.onnx"
            export_onnx.main([str(tmp_path / "t_8.pt"), str(out), *options])
            said = "left out" in capsys.readouterr().out
            facts = OnnxModel(out, CPU).facts
            stored[mirrored, len(options)] = facts.get("threshold"), [one["flip"] for one in facts["scores"]], said
    assert stored == {
        (False, 0): (0.61, ["", "sum"], False), (False, 1): (0.61, [""], False),
        (True, 0): (0.61, ["", "sum"], False), (True, 1): (None, [""], True),
    }  # fmt: skip
    # By its own facts the file is scored with mirror images; that these are of unit vectors is said.
    single = ["--flipped_emb", "false"]
    for name, options, warned in [
        *(("True0", [], False), ("True1", [], True)),
        *(("True1", single, False), ("True1", [*single, "--dist", "l2"], True)),
    ]:
        evaluate_lfw.main(["--snap", str(tmp_path / f"{name}.onnx"), *folder, "--bootstrap", "0", *options])
        assert ("its embeddings have norm 1" in capsys.readouterr().err) is warned, (name, options)


def test_a_program_is_written_beside_and_runs_for_any_batch(snap: Path, exported: Path, tmp_path: Path) -> None:
    export_onnx.main([str(snap), str(tmp_path / "t.onnx"), "--program", str(tmp_path / "t.pt2")])
    said = {CONTRACT_KEY: ""}
    program = torch.export.load(tmp_path / "t.pt2", extra_files=said).module()
    assert json.loads(said[CONTRACT_KEY]) == CONTRACT.as_dict()
    network = OnnxModel(exported, CPU)
    for count in (1, 5):
        pictures = random_pixels(count, CONTRACT.input_size) / 255
        assert difference(network(pictures), program(pictures)).within(export_onnx.LIMIT)


def test_eight_bits_are_written_with_their_loss(
    snap: Path, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_onnx.main([str(snap), str(tmp_path / "t.onnx"), "--int8", "8"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: [float(x) for x in line[1:]] for line in lines if line[0] in ("float32", "int8", "loss")}
    for column in (0, 1):  # printed with four digits, so a difference may be off by 1 in the last
        assert table["loss"][column] == pytest.approx(table["float32"][column] - table["int8"][column], abs=1.01e-4)
    small = OnnxModel(tmp_path / "t.int8.onnx", CPU)
    assert small.preprocessing == CONTRACT
    assert small.facts["scores"] == []  # which were noted of other weights
    folder = ["--val_data_root", str(sample_data / "lfw")]
    for name, path in (("int8", "t.int8.onnx"), ("float32", "t.onnx")):
        measured = figures(tmp_path, "--snap", str(tmp_path / path), *folder)
        assert [measured["accuracy"], measured["auc"]] == pytest.approx(table[name], abs=5.1e-5)
    graph = onnx.load(tmp_path / "t.int8.onnx").graph
    (norm,) = (node for node in graph.node if node.op_type == "BatchNormalization")
    assert norm.input[0] == graph.input[0].name  # the images as they are: only after it they have eight bits
    shapes = {one.name: (one.data_type, *one.dims) for one in graph.initializer}
    quantised = {name: dims[0] for name, (kind, *dims) in shapes.items() if kind == TensorProto.INT8 and len(dims) > 1}
    assert len(quantised) == 3  # two convolutions and the linear layer, with a scale for each output
    for name, outputs in quantised.items():
        assert shapes[name.replace("_quantized", "_scale")] == (TensorProto.FLOAT, outputs)


def test_a_wrong_export_is_refused_and_leaves_nothing(
    snap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tampered(OnnxModel):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            rows = super().__call__(images)
            rows[-1, 0] *= 1.01
            return rows

    before = tmp_path / "t.onnx"
    before.write_text("the one before")
    monkeypatch.setattr(export_onnx, "OnnxModel", Tampered)
    with pytest.raises(InputError, match=r"differs from PyTorch by more than 0.0001; nothing was written"):
        export_onnx.main([str(snap), str(before), "--program", str(tmp_path / "t.pt2"), "--int8", "4"])
    assert [path.name for path in tmp_path.iterdir()] == ["t.onnx"]
    assert before.read_text() == "the one before"


@pytest.mark.parametrize(
    ("change", "expected"),
    [(lambda rows: rows * 1.001, False), (lambda rows: rows.flip(1), False), (lambda rows: rows * torch.nan, False)],
)
def test_a_difference_in_length_direction_or_finiteness_counts(
    change: Callable[[torch.Tensor], torch.Tensor], expected: bool
) -> None:
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert difference(rows, change(rows)).within(export_onnx.LIMIT) is expected
    assert difference(rows, rows.clone()).within(1e-12)


def test_without_faces_within_reach_pseudo_random_pictures_are_checked(
    snap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = torch.load(snap, weights_only=True)
    torch.save(contents | {"config": {}}, tmp_path / "alone.pt")
    export_onnx.main([str(tmp_path / "alone.pt"), str(tmp_path / "t.onnx")])
    printed = capsys.readouterr().out
    assert "64 pseudo-random images, against PyTorch" in printed
    assert printed.splitlines()[-1].startswith("next: python evaluate_lfw.py --snap ")
    with pytest.raises(InputError, match="names no verification set"):  # 8 bits can't be judged without faces
        export_onnx.main([str(tmp_path / "alone.pt"), str(tmp_path / "u.onnx"), "--int8", "4"])
    assert not (tmp_path / "u.onnx").exists()


def test_the_command_refuses_in_one_line_each(snap: Path, tmp_path: Path) -> None:
    done = launch("tools/export_onnx.py", str(snap), str(tmp_path / "t.bin"), "--program", "p.pt", "--int8", "-1")
    assert done.returncode == 2
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines()] == [
        f"OUT {tmp_path}/t.bin: must end in .onnx",
        "--program p.pt: must end in .pt2",
        "--int8 -1: expected a number of images, or 0",
    ]


def test_a_path_that_cannot_be_written_is_an_error_of_one_line(snap: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "t.onnx"
    for words in ([str(below)], [str(tmp_path / "t.onnx"), "--program", str(tmp_path / "file" / "t.pt2")]):
        with pytest.raises(InputError, match=r"file/t\.\w+: can't be written: Not a directory$"):
            export_onnx.main([str(snap), *words])
    with pytest.raises(InputError, match="can't be written"), export_onnx._replacing(below):  # as of a later failure
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- scoring files of others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_a_fixed_number_of_pictures_is_filled_up(batch: int | str, tmp_path: Path) -> None:
    network = OnnxModel(foreign(tmp_path / "f.onnx", batch), CPU)
    assert network.embed_size((32, 48)) == 3 * 4 * 6
    pictures = torch.rand(7, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(pictures), pictures[:, :, ::8, ::8].flatten(1))


@pytest.mark.parametrize("build", ["onnxruntime-gpu", "onnxruntime"])
def test_on_a_gpu_the_ranks_own_one_is_used_where_onnx_runtime_can(
    build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    session = onnxruntime.InferenceSession
    found = [*(["CUDAExecutionProvider"] if build == "onnxruntime-gpu" else []), "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)

    def open_session(path: Path, _settings: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return session(path)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    OnnxModel(foreign(tmp_path / "f.onnx"), torch.device("cuda", 3))
    on_gpu = [("CUDAExecutionProvider", {"device_id": 3})] if build == "onnxruntime-gpu" else []
    assert asked == [*on_gpu, "CPUExecutionProvider"]


def test_a_file_without_contract_needs_all_of_it_said(tmp_path: Path, sample_data: Path) -> None:
    folder = ["--val_data_root", str(sample_data / "lfw")]
    fixed = str(foreign(tmp_path / "fixed.onnx"))
    free = str(foreign(tmp_path / "free.onnx", shape=["n", 3, "h", "w"]))
    for path, missing in ((fixed, "--template, --mean, --std"), (free, "--input_size, --template, --mean, --std")):
        with pytest.raises(InputError, match=f"{path} doesn't store its preprocessing: give {missing}, or write it"):
            evaluate_lfw.main(["--snap", path, *folder])
    said = ["--template", "arcface", "--mean", "0", "0", "0", "--std", "1", "1", "1"]
    assert figures(tmp_path, "--snap", fixed, *folder, *said) == figures(
        tmp_path, "--snap", free, *folder, *said, "--input_size", "32", "48"
    )
    with pytest.raises(InputError, match=r"takes images of 32×48 \(height × width\), not 64×64"):
        evaluate_lfw.main(["--snap", fixed, *folder, *said, "--input_size", "64"])
    with pytest.raises(InputError, match=r"--model mobilenet: .* holds unknown"):
        evaluate_lfw.main(["--snap", fixed, *folder, *said, "--model", "mobilenet"])
    with pytest.raises(InputError, match=r"--embed_size 5: .* holds 72"):
        evaluate_lfw.main(["--snap", fixed, *folder, *said, "--embed_size", "5"])


def test_what_an_option_overrides_is_said(
    snap: Path, exported: Path, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--val_data_root", str(sample_data / "lfw")]
    for path in (snap, exported):
        plain = figures(tmp_path, "--snap", str(path), *folder)
        capsys.readouterr()
        assert figures(tmp_path, "--snap", str(path), *folder, *SAID.split()) == plain
        assert "overrides" not in capsys.readouterr().out  # all of it is what the file says
        options = "--template sphereface --alignment procrustes --color_order rgb --mean .1 .2 .3 --std .3 .25 .9"
        assert figures(tmp_path, "--snap", str(path), *folder, *options.split()) != plain
        assert capsys.readouterr().out.splitlines()[:5] == [
            f"--template sphereface overrides what {path} says: arcface",
            f"--alignment procrustes overrides what {path} says: umeyama",
            f"--color_order rgb overrides what {path} says: bgr",
            f"--mean 0.1 0.2 0.3 overrides what {path} says: 0.5 0.45 0.4",
            f"--std 0.3 0.25 0.9 overrides what {path} says: 0.3 0.25 0.2",
        ]
    with pytest.raises(InputError, match="tiny needs sides that are multiples of 16"):
        evaluate_lfw.main(["--snap", str(snap), "--input_size", "40"])
    with pytest.raises(InputError, match="size mismatch"):
        evaluate_lfw.main(["--snap", str(snap), "--input_size", "64"])
    with pytest.raises(InputError, match="takes images of 32×48"):
        evaluate_lfw.main(["--snap", str(exported), *folder, "--input_size", "64"])


def second(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"shape": ["n", 32, 48, 4]}, r"needs one input of float images, .* inputs: x tensor\(float\) \['n', 32, 48"),
        ({"kind": TensorProto.DOUBLE}, "not an ONNX model that can be run"),
        ({"inputs": [second("z")]}, r"inputs: x .*; z tensor\(float\) \['n', 2\]; outputs"),
        (
            {"outputs": [helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3, 3, 1, 1])]},
            r"2 outputs, of which 2 may be the embedding: y .*; weight .*; keep one: onnx\.utils\.extract_model\(",
        ),
        ({"metadata": {CONTRACT_KEY: "{"}}, f"metadata {CONTRACT_KEY} isn't JSON"),
        ({"metadata": {FACTS_KEY: "[1]"}}, f"metadata {FACTS_KEY} isn't a JSON object"),
        ({"metadata": {FACTS_KEY: '{"model": 1, "iteration": "x"}'}}, "is invalid: model, iteration"),
        ({"metadata": {CONTRACT_KEY: '{"mean": 1}'}}, "preprocessing doesn't fit this version: alignment"),
        ({"metadata": {CONTRACT_KEY: json.dumps(CONTRACT.as_dict() | {"std": [0, 1, 1]})}}, r"std \(0, 1, 1\)"),
        ({"metadata": {CONTRACT_KEY: json.dumps(CONTRACT.as_dict() | {"template": []})}}, r"template \(\)"),
    ],
)  # fmt: skip
def test_what_is_no_network_of_faces_is_refused_with_what_was_found(
    parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        OnnxModel(foreign(tmp_path / "f.onnx", **parts), CPU)


def rewritten(path: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """`foreign`, its graph changed."""
    model = onnx.load(foreign(path))
    change(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tensor(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def with_norm(graph: onnx.GraphProto) -> None:
    """A second output in front, the norm of the embedding, as AdaFace's and CVLface's networks have."""
    graph.node.append(helper.make_node("ReduceL2", ["y"], ["norm"], axes=[1]))
    graph.output.insert(0, tensor("norm", ["n", 1]))


def channels_last(graph: onnx.GraphProto) -> None:
    graph.node.insert(0, helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]))
    graph.node[1].input[0] = "planes"
    graph.input[0].CopyFrom(tensor("x", ["n", 32, 48, 3]))


def half(graph: onnx.GraphProto) -> None:
    graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(graph.initializer[0]).astype(np.float16), "weight")
    )
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def as_map(graph: onnx.GraphProto) -> None:
    """[N, E, 1, 1], as of a network that ends in a convolution."""
    graph.node[1].output[0] = "rows"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 72, 1, 1]), "shape"))
    graph.node.append(helper.make_node("Reshape", ["rows", "shape"], ["y"]))
    graph.output[0].CopyFrom(tensor("y", ["n", 72, 1, 1]))


@pytest.mark.parametrize("change", [with_norm, channels_last, half, as_map])
def test_other_forms_of_inputs_and_outputs_give_the_same_embeddings(
    change: Callable[[onnx.GraphProto], None], tmp_path: Path
) -> None:
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)).half().float()  # exact in half floats
    expected = OnnxModel(foreign(tmp_path / "plain.onnx"), CPU)
    model = OnnxModel(rewritten(tmp_path / "f.onnx", change), CPU)
    assert model.input_size == expected.input_size == (32, 48)
    assert model.embed_size((32, 48)) == 72
    assert torch.equal(model(images), expected(images))


def test_the_example_of_a_file_beside_a_model_means_what_the_example_of_a_command_does() -> None:
    section = (ROOT / "docs/evaluation.md").read_text().partition("\n## ONNX models\n")[2].partition("\n## ")[0]
    *_, command, beside = [block for block in section.split("\n\n") if block.startswith("    ")]
    options = evaluation_options(shlex.split(command.replace("\\\n", "").replace("$", ""))[2:]).values
    given = Preprocessing((112, 112), options.template).with_overrides((), options.mean, options.std, "auto")
    assert Preprocessing.from_dict(json.loads(beside)) == given


def test_the_preprocessing_of_a_foreign_file_is_given_once_beside_it(
    snap: Path, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reader takes it; a comparison gives options to the file alone that has none."""
    path, other = foreign(tmp_path / "f.onnx"), foreign(tmp_path / "g.onnx")
    folder = ["--val_data_root", str(sample_data / "lfw")]
    with pytest.raises(InputError, match=rf"give --template, --mean, --std, or write it once to {path}\.json \(docs/"):
        evaluate_lfw.main(["--snap", str(path), *folder])
    expected = figures(tmp_path, "--snap", str(path), *folder, *SAID.split())
    beside = tmp_path / "f.onnx.json"
    beside.write_text(json.dumps(CONTRACT.as_dict()))
    capsys.readouterr()
    assert figures(tmp_path, "--snap", str(path), *folder) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_models, "stores_preprocessing", None)  # isn't asked without options about it
        assert compare_models.main([str(path), str(path), *folder, "--bootstrap", "0"]) == 0
    figures(tmp_path, "--snap", str(path), *folder, "--template", "sphereface")
    assert f"--template sphereface overrides what {path} says: arcface" in capsys.readouterr().out
    wrong = SAID.replace("arcface", "sphereface").split()
    assert compare_models.main([str(path), str(other), *folder, *wrong, "--bootstrap", "0"]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    of_other = figures(tmp_path, "--snap", str(other), *folder, *wrong)
    assert row[1:3] == [f"{expected['accuracy']:.4f}", f"{of_other['accuracy']:.4f}"]
    for text, said in (("{", "the file isn't JSON"), ("{}", "preprocessing doesn't fit this version: alignment")):
        beside.write_text(text)
        with pytest.raises(InputError, match=rf"f\.onnx\.json: .*{said}"):
            OnnxModel(path, CPU)
    foreign(path, metadata={CONTRACT_KEY: json.dumps(CONTRACT.as_dict())})
    with pytest.raises(InputError, match="stores its preprocessing itself; remove this file"):
        OnnxModel(path, CPU)


@pytest.mark.parametrize("name", [b"theirs", b"seen"])
def test_names_that_are_no_text_are_refused(name: bytes, tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx", names=("seen", "y"), metadata={"theirs": "x"})
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * len(name)))
    said = r"f\.onnx: (a name in it isn't UTF-8|not an ONNX model that can be run: .*utf)"
    with pytest.raises(InputError, match=said):
        OnnxModel(path, CPU)


def test_an_output_that_is_no_row_a_picture_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx")
    model = onnx.load(path)
    model.graph.node[1].attribute.append(helper.make_attribute("axis", 0))  # all images into one row
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"two images give torch.float32 \[1, 144\] instead of two float32 embeddings"):
        OnnxModel(path, CPU).embed_size((32, 48))


def test_a_file_of_an_unknown_kind_is_told_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 0.5\n")
    with pytest.raises(InputError, match=r"x\.txt: not a snapshot \(\.pt, \.safetensors\) or an ONNX model$"):
        evaluate_lfw.main(["--snap", str(tmp_path / "x.txt")])


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04", "cut", "outside"])
def test_a_hostile_file_ends_the_command_in_one_line(content: bytes | str, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    if content == "cut":
        path.write_bytes(exported.read_bytes()[:5000])
    elif content == "outside":
        model = onnx.load(exported)
        (tmp_path / "outside.bin").write_bytes(bytes(10**6))
        for tensor in model.graph.initializer[:1]:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "../outside.bin"), ("offset", "0")):
                tensor.external_data.add(key=key, value=value)
        path = tmp_path / "inner" / "bad.onnx"
        path.parent.mkdir()
        path.write_bytes(model.SerializeToString())
    else:
        path.write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"^{path}: not an ONNX model(, but| that can be run:) .*$") as refusal:
        evaluate_lfw.main(["--snap", str(path), "--val_data_root", "x"])
    assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"missing\.onnx: can't be read: No such file"):
        evaluate_lfw.main(["--snap", str(tmp_path / "missing.onnx")])


def test_two_ranks_score_a_file_as_one_does(exported: Path, tmp_path: Path, sample_data: Path) -> None:
    options = ["--snap", str(exported), "--val_data_root", str(sample_data / "lfw"), "--template", "sphereface"]
    done = launch_forked("evaluate_lfw.py", *options, "--json", str(tmp_path / "two.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("overrides") == 1
    assert json.loads((tmp_path / "two.json").read_text()) == pytest.approx(figures(tmp_path, *options), abs=1e-6)


def test_a_published_network_reaches_its_figures_through_the_command(shared_data: Path, tmp_path: Path) -> None:
    """Only the folder of the set is named; figures and their tolerance: ../shared/data/README.md."""
    got = figures(
        tmp_path,
        *("--snap", str(shared_data / "models/mobilefacenet.onnx"), "--flipped_emb", "--template", "arcface"),
        *("--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"),
        *("--val_data_root", str(shared_data / "faces-mini/lfw"), "--val_batch_size", "32"),
    )
    assert got["accuracy"] == pytest.approx(0.9863, abs=0.004)
    assert got["auc"] == pytest.approx(0.9998, abs=0.0003)
    assert got["threshold_cosine"] == pytest.approx(0.26, abs=0.02)
