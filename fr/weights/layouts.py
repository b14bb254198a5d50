"""Layouts of other systems' weights: one entry each, recognised by a few keys.

face_recognition.pytorch: grib0ed0v's snapshots; VGGFace2-pytorch: cydonia999's .pkl files and checkpoints; facenet with
centre loss: tbmoon's checkpoints; insightface: arcface_torch's backbone.pth, and FaceTechnologyTool's pickled modules;
MobileFaceNet_Pytorch: Xiaoccer's .ckpt; AdaFace: Lightning's checkpoints; CVLface: model.safetensors and model.pt;
facenet-pytorch: timesler's .pt files; torchvision: its ImageNet files.

E embedding size, C classes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from fr.alignment import CENTER_CROP
from fr.errors import InputError
from fr.models import build_model, family
from fr.models.ir import BLOCKS
from fr.models.iresnet import DEPTHS
from fr.options.names import TIMM
from fr.options.types import keyword_arguments
from fr.weights.face_recognition_pytorch import KEYS_001, Rules

Shape = tuple[int, ...]
_ANY_EMBED_SIZE = 512
_LARGEST_EMBED_SIZE = 65_536
_LARGEST_SIDE = 4096
COUNTER = "num_batches_tracked"  # of batch norms; it has no effect here, and older files lack it


@dataclass(frozen=True)
class System:
    """A trainer, and the common properties of its files.

    rules: by `--model`, as in `face_recognition_pytorch`; a model without rules has the keys of this trainer. head: key
    of the classes' weights, [C, E], or [E, C] if `transposed`. bias: key of the logits' bias, [C]. drops: its keys
    without a counterpart in a backbone here. lacks: our keys that its files never have. pooled: embedding size of files
    without a last layer, whose embedding is the pooled features. template, alignment: the authors' alignment of faces,
    if any. color_order: of its input; "" = that of the model.
    """

    source: str
    rules: Mapping[str, Rules] = field(default_factory=dict)
    head: str = ""
    bias: str = ""
    transposed: bool = False
    drops: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    pooled: int = 0
    template: str = "sphereface"
    alignment: str = "procrustes"
    color_order: str = ""

    def our_key(self, model: str, key: str) -> str:
        """Name of one of their keys in `--model model`."""
        for pattern, replacement in self.rules.get(model, ()):
            renamed, count = re.subn(pattern, replacement, key)
            if count:
                return renamed
        return key


@dataclass(frozen=True)
class Layout:
    """State dicts of some models of a system, which differ only in width or depth.

    marks: keys that all of them have, and no later layout has, with their shapes (None = any, for one dimension or the
    whole shape).
    """

    system: System
    models: tuple[str, ...]
    marks: Mapping[str, tuple[int | None, ...] | None]

    def describes(self, shapes: Mapping[str, Shape]) -> bool:
        return all(key in shapes and _agrees(shapes[key], mark) for key, mark in self.marks.items())


def _agrees(shape: Shape, mark: tuple[int | None, ...] | None) -> bool:
    return mark is None or (
        len(shape) == len(mark) and all(wanted in (None, side) for side, wanted in zip(shape, mark, strict=True))
    )


_RESNETS = ("resnet34", "resnet50", "resnet101")
_STEM = {"conv1.weight": (64, 3, 7, 7)}
_ANCESTOR = System("face_recognition.pytorch", KEYS_001, head="fc_angular.weight", transposed=True)
_CENTRE_LOSS = System(
    "facenet with centre loss",
    head="model.classifier.weight",
    bias="model.classifier.bias",
    drops=("model.classifier.bias",),
)
_INSIGHTFACE = System("insightface", head="weight", template="arcface", alignment="umeyama")
_MOBILEFACENET = System("MobileFaceNet_Pytorch", alignment="umeyama")  # SphereFace's points in 96 × 112
_IRS = tuple(f"ir{depth}" for depth in BLOCKS)
_ADAFACE = System(
    "AdaFace", head="head.kernel", transposed=True, template="arcface", alignment="umeyama", color_order="bgr"
)
_CVLFACE = System("CVLface", {name: [(r"^net\.", "")] for name in _IRS}, template="arcface", alignment="umeyama")
_FACENET = System("facenet-pytorch", head="logits.weight", bias="logits.bias", drops=("logits.bias",))
_CAFFE = System(
    "VGGFace2-pytorch",
    head="fc.weight",
    bias="fc.bias",
    drops=("fc.bias",),
    pooled=2048,
    alignment=CENTER_CROP,
)
_IMAGENET = System(
    "torchvision, trained on ImageNet",
    {name: [("^", "model.")] for name in _RESNETS},
    drops=("fc.weight", "fc.bias"),
    lacks=("model.fc.weight", "model.fc.bias"),
)
_IR_BLOCK = {"1.weight": (64, 64, 3, 3), "5.weight": (64,)}

# The first layout that describes a file counts: VGGFace2-pytorch's ResNet-50 has torchvision's keys, and all its shapes
# but one.
LAYOUTS = (
    Layout(_ANCESTOR, ("mobilenet", "mobilenet_1_5x", "mobilenet_2x"), {"dw_pool.weight": None}),
    Layout(_ANCESTOR, ("rmnet",), {"backbone.stages.stage_0.conv1.weight": None}),
    Layout(_ANCESTOR, ("shufflenetv2",), {"global_pool.weight": None}),
    Layout(_ANCESTOR, ("resnet",), {"model.layer1.0.act1.weight": None}),
    Layout(_ANCESTOR, ("se_resnet50", "se_resnet101", "se_resnet152"), {"model.layer1.0.conv_down.weight": None}),
    Layout(_CENTRE_LOSS, _RESNETS, {"model.conv1.weight": (64, 3, 7, 7)}),
    Layout(
        _INSIGHTFACE,
        tuple(f"iresnet{depth}" for depth in DEPTHS),
        {"features.weight": None, "layer1.0.prelu.weight": None},
    ),
    Layout(_INSIGHTFACE, ("mbf",), {"conv_sep.layers.0.weight": None}),
    Layout(_INSIGHTFACE, ("vit_t", "vit_s", "vit_b"), {"mask_token": None, "feature.2.weight": None}),
    Layout(_MOBILEFACENET, ("mobilefacenet",), {"linear7.conv.weight": None}),
    # With blocks of two 3×3, and the batch norm between them that face.evoLVe's IR networks lack.
    *(
        Layout(system, _IRS, {f"{prefix}body.0.res_layer.{key}": shape for key, shape in _IR_BLOCK.items()})
        for system, prefix in ((_ADAFACE, ""), (_CVLFACE, "net."))
    ),
    Layout(_FACENET, ("inception_resnet_v1",), {"repeat_3.0.conv2d.weight": None, "last_linear.weight": None}),
    Layout(_CAFFE, ("senet50_caffe",), {"layer1.0.conv4.weight": None}),
    Layout(_IMAGENET, _RESNETS, {**_STEM, "fc.weight": (1000, None)}),
    Layout(_CAFFE, ("resnet50_caffe",), {**_STEM, "layer1.0.conv3.weight": None, "fc.weight": (None, 2048)}),
    Layout(_IMAGENET, _RESNETS, {**_STEM, "layer1.0.conv1.weight": None}),
)


# Networks that aren't supported: a key that identifies them, its shape, and a description.
_UNREADABLE: tuple[tuple[str, Shape | None, str], ...] = (
    (r"(^|\.)keypoint_linear\.", None, "a network of CVLface with KP-RPE, which takes the landmarks; take its IR-101"),
    (r"\.rpe_[qkv]\.", None, "a network of CVLface with relative positions; take its IR-101"),
    (r"(^|\.)feature\.0\.weight$", (512, 512 * 14 * 14), "a ViT of CVLface, with patches of 8 pixels; take its IR-101"),
    (r"\.res_layer\.(\d+\.fc1|se_block)\.", None, "an IR-SE network, with squeeze-excitation; take IR or an ONNX file"),
    (r"\.res_layer\.8\.", None, "an IR network of bottlenecks (152 or 200 layers); take IR-101 or an ONNX file"),
)


def refuse_unreadable(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError with a description if a file holds a known network that isn't supported."""
    for key, tensor in tensors.items():
        for pattern, shape, what in _UNREADABLE:
            if re.search(pattern, key) and shape in (None, tensor.shape):
                raise InputError(f"{path}: a network that this trainer doesn't have: {what}")


def layouts_with(model: str, model_kwargs: tuple[str, ...] = ()) -> Sequence[Layout]:
    """LAYOUTS, and a layout with the keys of `--model`; for timm's models it is first, as others have the same keys.

    model_kwargs: the model's `--model_kwargs`, which may add or remove keys.
    """
    if not model:
        return LAYOUTS
    shapes = shapes_of(model, _ANY_EMBED_SIZE, family(model).input_size, model_kwargs)
    marks = {key: None for key in shapes if not key.endswith(COUNTER)}
    own = Layout(System("keys as they are here"), (model,), marks)
    return (own, *LAYOUTS) if model.startswith(TIMM) else (*LAYOUTS, own)


@lru_cache(maxsize=64)
def shapes_of(
    name: str, embed_size: int, input_size: tuple[int, int], model_kwargs: tuple[str, ...] = ()
) -> dict[str, Shape]:
    """Shapes in the state dict of a `--model` with `--model_kwargs`, by key; no random draws, no memory for weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build_model(name, embed_size, input_size, keyword_arguments(model_kwargs))
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def likeliest_model(layout: Layout, shapes: Mapping[str, Shape], model_kwargs: tuple[str, ...] = ()) -> str:
    """The `--model` that best fits a state dict of this layout; the shapes determine width and depth."""

    def likeness(name: str) -> int:
        wanted = shapes_of(name, _ANY_EMBED_SIZE, family(name).input_size, model_kwargs)
        renamed = {layout.system.our_key(name, key): shape for key, shape in shapes.items()}
        equal = sum(wanted.get(key) == shape for key, shape in renamed.items())
        return equal - len(wanted.keys() ^ renamed.keys())

    return max(layout.models, key=likeness)


def embedding_size(name: str, shapes: Mapping[str, Shape], model_kwargs: tuple[str, ...] = ()) -> int:
    """E of a state dict with our keys; 0 if the embedding layer is missing or invalid."""
    own = family(name).input_size
    usual, other = (shapes_of(name, _ANY_EMBED_SIZE + more, own, model_kwargs) for more in (0, 1))
    for key, shape in usual.items():
        if shape != other[key] and shapes.get(key):
            size = shapes[key][0]
            return size if size <= _LARGEST_EMBED_SIZE else 0
    return 0


def input_sides(name: str, embed_size: int, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """(height, width) of the images for a state dict with our keys; None if the shapes don't determine them.

    They do if a layer has a weight for each position of the last feature map: a kernel as large as the map; or a linear
    layer, for which only the product of the sides is known and a square is assumed.
    """
    own = family(name).input_size
    if name.startswith(TIMM):
        return None  # not all of timm's models can be built for another size
    usual, larger = (shapes_of(name, embed_size, (factor * own[0], factor * own[1])) for factor in (1, 2))
    key = next((key for key in usual if usual[key] != larger[key] and len(shapes.get(key, ())) == len(usual[key])), "")
    if not key:
        return None
    if len(usual[key]) == 4:
        scales = [theirs / ours for theirs, ours in zip(shapes[key][2:], usual[key][2:], strict=True)]
    else:
        scales = 2 * [math.sqrt(shapes[key][1] / usual[key][1])]
    height, width = (round(side * scale) for side, scale in zip(own, scales, strict=True))
    sensible = all(0 < side <= _LARGEST_SIDE and side % family(name).divisor == 0 for side in (height, width))
    if not sensible or shapes_of(name, embed_size, (height, width))[key][1:] != shapes[key][1:]:
        return None
    return height, width
