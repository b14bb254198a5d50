"""Weights of other systems: each kind of file is recognised, and each tensor arrives, bit by bit, where it belongs."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from fr.errors import InputError
from fr.files import foreign_pickle
from fr.models import MODELS, build_model
from fr.weights.layouts import shapes_of
from fr.weights.loading import Weights, fit, read_weights
from tests.layouts_001 import NAMES_001, layout_001
from tests.layouts_foreign import LAYOUTS, layout
from tests.weight_files import (
    Part,
    Tensors,
    average_meter,
    filled,
    foreign_module,
    network_of,
    python2_pickle,
    save_legacy,
    save_safetensors,
    with_prefix,
)

CLASSES = 10


def same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def in_order(tensors: Tensors) -> Tensors:
    """001's MobileFaceNet under our keys, by nothing but the order of the layers, which both have in common.

    Its squeeze-excitation names the activation after both convolutions, ours between them.
    """
    theirs = sorted(tensors, key=lambda key: _before_second_convolution(key, list(tensors)))
    return dict(zip(shapes_of("mobilenet", 256, (128, 128)), (tensors[key] for key in theirs), strict=True))


def _before_second_convolution(key: str, keys: list[str]) -> float:
    if ".8.relu." in key:
        return keys.index(key.replace("relu.weight", "conv2.weight")) - 0.5
    return keys.index(key)


def unchanged(tensors: Tensors) -> Tensors:
    return tensors


def without_counters(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("tracked")}


def ancestor_file(name: str, save: Callable[[Any, Path], None]) -> Callable[[Path], tuple[Tensors, torch.Tensor]]:
    def write(path: Path) -> tuple[Tensors, torch.Tensor]:
        tensors, head = filled(layout_001(name, 256)), torch.rand(256, CLASSES)
        save({"epoch": 3, "state_dict": with_prefix(tensors | {"fc_angular.weight": head})}, path)
        return tensors, head.t()

    return write


def caffe_pickle(path: Path) -> tuple[Tensors, torch.Tensor]:
    tensors, head = without_counters(filled(layout("resnet50_caffe", 2048))), torch.rand(CLASSES, 2048)
    path.write_bytes(python2_pickle(tensors | {"fc.weight": head, "fc.bias": torch.rand(CLASSES)}))
    return tensors, head


def caffe_checkpoint(path: Path) -> tuple[Tensors, torch.Tensor]:
    tensors, head = filled(layout("senet50_caffe", 2048)), torch.rand(CLASSES, 2048)
    state = tensors | {"fc.weight": head, "fc.bias": torch.rand(CLASSES)}
    with foreign_module("utils", AverageMeter=type(meter := average_meter())):
        facts = {"epoch": 1, "iteration": 7, "arch": "ResNet", "best_top1": torch.tensor(0.5), "top1": meter}
        save_legacy(facts | {"model_state_dict": state, "optim_state_dict": {"state": {}, "param_groups": []}}, path)
    return tensors, head


def centre_loss_checkpoint(path: Path) -> tuple[Tensors, torch.Tensor]:
    tensors, head = filled(shapes_of("resnet34", 128, (160, 160))), torch.rand(CLASSES, 128)
    state = tensors | {"model.classifier.weight": head, "model.classifier.bias": torch.rand(CLASSES)}
    torch.save({"epoch": 1, "num_classes": CLASSES, "model_architecture": "resnet34", "model_state_dict": state}, path)
    return tensors, head


def insightface_file(name: str) -> Callable[[Path], tuple[Tensors, None]]:
    def write(path: Path) -> tuple[Tensors, None]:
        tensors = filled(layout(name, 512))
        torch.save(tensors, path)
        return tensors, None

    return write


def whole_module(save: Callable[[Any, Path], None]) -> Callable[[Path], tuple[Tensors, torch.Tensor]]:
    def write(path: Path) -> tuple[Tensors, torch.Tensor]:
        tensors, head = filled(layout("iresnet18", 512)), torch.rand(CLASSES, 512)
        with foreign_module("backbones", Part=Part):
            save(network_of(tensors | {"weight": head}), path)
        return tensors, head

    return write


def wrapped(*prefixes: str, **beside: torch.Tensor) -> Callable[[Path], tuple[Tensors, None]]:
    """insightface's network as a part of a model: prefixes, one within another, and other tensors beside it."""

    def write(path: Path) -> tuple[Tensors, None]:
        tensors = filled(layout("iresnet18", 512))
        torch.save({"state_dict": beside | with_prefix(tensors, "".join(prefixes))}, path)
        return tensors, None

    return write


def adaface_checkpoint(path: Path) -> tuple[Tensors, torch.Tensor]:
    """Lightning's: the network as `model`, the classifier's columns and running norms as `head`."""
    tensors, kernel = filled(layout("ir18", 512)), torch.rand(512, CLASSES)
    norms = {f"head.{name}": torch.rand(1) for name in ("t", "batch_mean", "batch_std")}
    state = with_prefix(tensors, "model.") | {"head.kernel": kernel} | norms
    torch.save({"epoch": 1, "pytorch-lightning_version": "1.5.0", "state_dict": state, "callbacks": {}}, path)
    return tensors, kernel.t()


def facenet_file(path: Path) -> tuple[Tensors, torch.Tensor]:
    tensors, head = filled(layout("inception_resnet_v1", 512)), torch.rand(CLASSES, 512)
    torch.save(tensors | {"logits.weight": head, "logits.bias": torch.rand(CLASSES)}, path)
    return tensors, head


def averaged(name: str) -> Callable[[Path], tuple[Tensors, None]]:
    """torchvision's ModelEma: the network behind `module.`, and a counter beside it."""

    def write(path: Path) -> tuple[Tensors, None]:
        tensors = filled(layout("iresnet18", 512))
        torch.save({"epoch": 1, name: {"n_averaged": torch.tensor(3), **with_prefix(tensors)}}, path)
        return tensors, None

    return write


def in_safetensors(name: str, prefix: str = "") -> Callable[[Path], tuple[Tensors, None]]:
    def write(path: Path) -> tuple[Tensors, None]:
        tensors = filled(layout(name, 512))
        save_safetensors(with_prefix(tensors, prefix), path)
        return tensors, None

    return write


def xiaoccer_checkpoint(path: Path) -> tuple[Tensors, None]:
    tensors = filled(layout("mobilefacenet", 128, (7, 6)))
    save_legacy({"iter": 1, "net_state_dict": tensors}, path)
    return tensors, None


FILES: dict[str, tuple[Any, str, str, int, tuple[int, int] | None, Callable[[Tensors], Tensors]]] = {
    # writer, source, model, embedding size, input size, their tensors under our keys
    "001.pt": (ancestor_file("mobilenet", torch.save), "face_recognition", "mobilenet", 256, (128, 128), in_order),
    "001_1.5.pt": (ancestor_file("mobilenet_1_5x", save_legacy), "face_", "mobilenet_1_5x", 256, (128, 128), in_order),
    "001_rm.pt": (ancestor_file("rmnet", torch.save), "face_recognition", "rmnet", 256, None, unchanged),
    "001_shuffle.pt": (ancestor_file("shufflenetv2", torch.save), "face_", "shufflenetv2", 256, (128, 128), unchanged),
    "resnet50.pkl": (caffe_pickle, "VGGFace2-pytorch", "resnet50_caffe", 2048, None, unchanged),
    "checkpoint.pth.tar": (caffe_checkpoint, "VGGFace2-pytorch", "senet50_caffe", 2048, None, unchanged),
    "model_resnet34.pt": (centre_loss_checkpoint, "centre loss", "resnet34", 128, None, unchanged),
    "backbone.pth": (insightface_file("iresnet18"), "insightface", "iresnet18", 512, (112, 112), unchanged),
    "mbf.pth": (insightface_file("mbf"), "insightface", "mbf", 512, (112, 112), unchanged),
    "vit.pth": (insightface_file("vit_t"), "insightface", "vit_t", 512, (112, 112), unchanged),
    "whole.pth": (whole_module(torch.save), "insightface", "iresnet18", 512, (112, 112), unchanged),
    "whole_old.pth": (whole_module(save_legacy), "insightface", "iresnet18", 512, (112, 112), unchanged),
    **{
        f"{'_'.join(prefixes)}.pth": (wrapped(*prefixes), "insightface", "iresnet18", 512, (112, 112), unchanged)
        for prefixes in (
            *(["backbone."], ["model."], ["net."], ["network."], ["_orig_mod."]),
            *(["module.", "_orig_mod."], ["_orig_mod.", "module."], ["model.", "backbone.", "net."]),
        )
    },
    "model.safetensors": (in_safetensors("iresnet18"), "insightface", "iresnet18", 512, (112, 112), unchanged),
    "adaface_ir18.ckpt": (adaface_checkpoint, "AdaFace", "ir18", 512, (112, 112), unchanged),
    "cvlface.safetensors": (in_safetensors("ir18", "model.net."), "CVLface", "ir18", 512, (112, 112), unchanged),
    "cvlface_50.safetensors": (in_safetensors("iresnet18", "net."), "insight", "iresnet18", 512, (112, 112), unchanged),
    "vggface2.pt": (facenet_file, "facenet-pytorch", "inception_resnet_v1", 512, None, unchanged),
    **{
        f"{name}.pth.tar": (averaged(name), "insightface", "iresnet18", 512, (112, 112), unchanged)
        for name in ("state_dict_ema", "model_ema", "ema")
    },
    "068.ckpt": (xiaoccer_checkpoint, "MobileFaceNet_Pytorch", "mobilefacenet", 128, (112, 96), unchanged),
}


def test_what_stands_beside_a_network_under_a_prefix_is_told(tmp_path: Path) -> None:
    write = wrapped("model.", "net.", **{"head.kernel": torch.ones(2), "model.loss.s": torch.ones(1)})
    tensors, _ = write(tmp_path / "f.ckpt")
    weights = read_weights(tmp_path / "f.ckpt")
    same(weights.backbone, tensors)
    assert weights.left_out == ("head.kernel", "model.loss.s")
    model = build_model("iresnet18", 512, (112, 112))
    assert fit(model, weights, partial=False)[1:] == ["left out: 2", "  head.kernel", "  model.loss.s"]


def test_a_classifier_beside_the_network_is_its_head(tmp_path: Path) -> None:
    adaface_checkpoint(tmp_path / "f.ckpt")
    weights = read_weights(tmp_path / "f.ckpt")
    assert weights.left_out == ("head.t", "head.batch_mean", "head.batch_std")
    assert (weights.color_order, weights.template, weights.alignment) == ("bgr", "arcface", "umeyama")


def test_keys_of_this_trainers_models_are_known_where_the_model_is_named(tmp_path: Path) -> None:
    tensors = filled(shapes_of("mobilenet", 24, (128, 128)))
    torch.save(with_prefix(tensors), tmp_path / "f.pth")
    with pytest.raises(InputError, match="an unknown kind"):
        read_weights(tmp_path / "f.pth")
    with pytest.raises(InputError, match="an unknown kind"):
        read_weights(tmp_path / "f.pth", "rmnet")
    weights = read_weights(tmp_path / "f.pth", "mobilenet")
    assert (weights.model, weights.embed_size, weights.input_size) == ("mobilenet", 24, (128, 128))
    same(weights.backbone, tensors)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("net.feature.0.weight", "ViT of CVLface, with patches of 8"),
        ("model.net.keypoint_linear.weight", "CVLface with KP-RPE, which takes the landmarks"),
        ("net.blocks.0.attn.rpe_k.lookup_table_weight", "CVLface with relative positions"),
        ("model.body.0.res_layer.se_block.fc1.weight", "IR-SE network"),
        ("body.0.res_layer.5.fc1.weight", "IR-SE network"),
        ("body.0.res_layer.8.weight", "IR network of bottlenecks"),
    ],
)
def test_known_networks_that_nothing_here_runs_are_named(
    key: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: torch.empty(512, 14 * 14 * 512, device="meta") for name in ("a.weight", key)}
    monkeypatch.setattr(foreign_pickle, "read", lambda _path: {"state_dict": tensors})
    with pytest.raises(InputError, match=rf"f\.pt: a network that this trainer doesn't have: an? .*{said}"):
        read_weights(Path("f.pt"))


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_is_recognised_and_arrives_bit_by_bit(name: str, tmp_path: Path) -> None:
    write, source, model_name, embed_size, input_size, under_our_keys = FILES[name]
    tensors, head = write(tmp_path / name)
    weights = read_weights(tmp_path / name)
    assert source in weights.source
    assert (weights.model, weights.embed_size, weights.input_size) == (model_name, embed_size, input_size)
    wanted = under_our_keys(tensors)
    same(weights.backbone, wanted)
    assert (weights.head is None) == (head is None)
    if weights.head is not None:
        assert torch.equal(weights.head, head)
    model = build_model(weights.model, embed_size, input_size or MODELS[model_name].input_size)
    fit(model, weights, partial=False)
    state = model.state_dict()
    same({key: state[key] for key in wanted}, wanted)


@pytest.mark.parametrize("name", [*NAMES_001, *LAYOUTS])
def test_every_model_is_told_from_the_others_by_shapes_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = layout_001(name, 72) if name in NAMES_001 else layout(name, 2048 if "caffe" in name else 72)
    if "caffe" in name:
        shapes |= {"fc.weight": (CLASSES, 2048), "fc.bias": (CLASSES,)}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    monkeypatch.setattr(foreign_pickle, "read", lambda _path: tensors)
    weights = read_weights(Path("any"))
    assert weights.model == ("se_resnet50" if name == "se_resnet" else name)  # two names of one network
    found = {key: tuple(tensor.shape) for key, tensor in weights.backbone.items()}
    assert found == shapes_of(weights.model, weights.embed_size, weights.input_size or MODELS[name].input_size)
    assert weights.embed_size == (2048 if "caffe" in name else 72)


@pytest.mark.parametrize("last_map", [(7, 7), (6, 7), (14, 14)])
def test_the_input_size_follows_from_a_kernel_as_large_as_the_last_map(
    last_map: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mbf", "mobilefacenet", "iresnet18"):
        tensors = {key: torch.empty(shape, device="meta") for key, shape in layout(name, 64, last_map).items()}
        monkeypatch.setattr(foreign_pickle, "read", lambda _path, tensors=tensors: tensors)
        sides = (16 * last_map[0], 16 * last_map[1])
        # Of a linear layer only the number of places is known: 42 are no square.
        assert read_weights(Path("any")).input_size == (None if name == "iresnet18" and last_map == (6, 7) else sides)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_torchvisions_own_network_gives_the_same_features_after_import(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = getattr(torchvision.models, name)(num_classes=1000).eval()
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    weights = read_weights(tmp_path / "imagenet.pth")
    assert (weights.model, weights.embed_size, weights.head) == (name, 0, None)
    assert weights.left_out == ("fc.weight", "fc.bias")
    ours: Any = build_model(name, 16, (64, 64)).eval()
    fresh = ours.model.fc.weight.clone()
    said = fit(ours, weights, partial=False)
    assert "start from initial values: 2" in said
    assert torch.equal(ours.model.fc.weight, fresh)
    theirs.fc = ours.model.fc = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours.model(images), theirs(images))


def test_a_network_with_centre_loss_gives_its_embeddings_after_import(tmp_path: Path) -> None:
    """Theirs: the last layer's output, divided by its length and multiplied by ten."""
    torch.manual_seed(0)
    theirs: Any = nn.Module()
    theirs.model = torchvision.models.resnet34(num_classes=128)
    theirs.model.classifier = nn.Linear(128, CLASSES)
    torch.save({"state_dict": with_prefix(theirs.state_dict())}, tmp_path / "model.pt")
    weights = read_weights(tmp_path / "model.pt")
    ours = build_model("resnet34", 128, (64, 64)).eval()
    fit(ours, weights, partial=False)
    images = torch.rand(2, 3, 64, 64)
    raw = theirs.model.eval()(images)
    torch.testing.assert_close(ours(images), 10 * raw / raw.norm(dim=1, keepdim=True))
    assert weights.left_out == ("model.classifier.bias",)


# --- what doesn't fit -------------------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def weights_of(tensors: Tensors, **changes: Any) -> Weights:
    return Weights(Path("f.pt"), "a test", "small", 2, changes.pop("input_size", None), tensors, None, **changes)


def test_what_does_not_fit_is_named_by_kind_and_leaves_the_network_as_it_was() -> None:
    network = small_network()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    odd = filled({key: tuple(tensor.shape) for key, tensor in before.items()})
    del odd["0.bias"]
    odd |= {"9.weight": torch.ones(2), "2.weight": torch.ones(5, 4), "2.bias": torch.ones(2, dtype=torch.int64)}
    with pytest.raises(InputError) as refusal:
        fit(network, weights_of(odd, input_size=(128, 96)), partial=False)
    assert refusal.value.problems == (
        "f.pt: small (a test), 53 numbers, embeddings of 2, no head: doesn't fit this run's network",
        "missing there: 1",
        "  0.bias",
        "unknown here: 1",
        "  9.weight",
        "of another shape: 2",
        "  2.weight is [5, 4] there, [2, 4] here",
        "  2.bias is [2] torch.int64 there, [2] here",
        "it is for images of 96×128: give --input_size 128 96",
    )
    same(dict(network.state_dict()), before)

    said = fit(network, weights_of(odd), partial=True)
    assert "unknown here: 1" in said and "  0.bias" in said
    state = network.state_dict()
    for key, tensor in before.items():
        fits = key in odd and key not in ("2.weight", "2.bias")
        assert torch.equal(state[key], odd[key] if fits else tensor)


def test_counters_may_be_missing_and_nothing_else() -> None:
    network = small_network()
    tensors = filled({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    assert len(fit(network, weights_of(without_counters(tensors)), partial=False)) == 1
    del tensors["1.running_var"]
    with pytest.raises(InputError, match=r"missing there: 1\n  1\.running_var$"):
        fit(network, weights_of(tensors), partial=False)


def test_of_many_keys_the_first_twenty_are_named() -> None:
    with pytest.raises(InputError) as refusal:
        fit(small_network(), weights_of({f"k{i}": torch.ones(1) for i in range(1000)}), partial=False)
    assert len(refusal.value.problems) == 1 + 1 + 8 + 1 + 20 + 1
    assert refusal.value.problems[-1] == "  … and 980 more"
    with pytest.raises(InputError, match="nothing of it fits"):
        fit(small_network(), weights_of({"k": torch.ones(1)}), partial=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}}, "no weights in it"),
        ([1, 2], "no weights in it"),
        ({"weight": torch.ones(2)}, r"an unknown kind \(its keys: weight"),
        ({"dw_pool.weight": torch.ones(512, 1, 8, 8)}, "mobilenet.* its embedding layer is missing or wrong"),
        ({"dw_pool.weight": torch.ones(1), "conv1_extra.weight": torch.ones(0, 512)}, "missing or wrong"),
        ({"dw_pool.weight": torch.ones(1), "fc_angular.weight": torch.ones(3)}, "a head has two sides"),
        ({"format": 1, "preprocessing": {}, "run": {}}, "not a snapshot of this trainer: missing or wrong: model"),
        ({"dw_pool.weight": torch.ones(1), "\ud800": torch.ones(1)}, r"a name in it isn't UTF-8: '\\ud800'"),
    ],
)
def test_files_without_weights_of_a_known_kind_are_refused_by_name(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(InputError, match=rf"f\.pth.*{said}"):
        read_weights(tmp_path / "f.pth")
    cyclic: dict[str, Any] = {}
    cyclic["state_dict"] = cyclic
    (tmp_path / "f.pth").write_bytes(pickle.dumps(cyclic))
    with pytest.raises(InputError, match="no weights in it"):
        read_weights(tmp_path / "f.pth")
