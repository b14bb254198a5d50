"""Backbones by name: photographs in, embeddings out."""

import argparse
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models import ResNet, resnet34, resnet50, resnet101

from fr.errors import InputError, unknown
from fr.models import caffe_resnet, insightface_mbf, iresnet, mobilefacenet, mobilenet, rmnet, se_resnet, shufflenet
from fr.models.family import HALF, Family
from fr.models.se_resnet import BLOCKS_50, BLOCKS_101, BLOCKS_152, Bottleneck, FaceResNet, SEBottleneck
from fr.models.torchvision_resnet import FixedLengthResNet
from fr.options.names import TIMM
from fr.preprocessing import Preprocessing


def _resnet(build: Callable[..., ResNet]) -> Family:
    return Family(
        lambda embed_size, _input_size: FixedLengthResNet(build, embed_size),
        (160, 160),
        mean=HALF,
        std=HALF,
        last_linear="model.fc",
    )


def _mobilenet(width: float) -> Family:
    build = partial(mobilenet.MobileFaceNet, width=width)
    return Family(build, (128, 128), mobilenet.DOWNSCALE, last_linear="embedding")


def _face_resnet(block: type[Bottleneck] | type[SEBottleneck], counts: tuple[int, ...]) -> Family:
    build = partial(FaceResNet, block=block, counts=counts)
    return Family(build, (112, 112), se_resnet.DOWNSCALE, last_linear="model.fc")


def _caffe(block: type[caffe_resnet.Bottleneck]) -> Family:
    return Family(
        lambda embed_size, _input_size: caffe_resnet.CaffeResNet(block, embed_size),
        (224, 224),
        mean=caffe_resnet.MEAN_BGR,
        std=caffe_resnet.STD_BGR,
        color_order="bgr",
        last_linear="embedding",
    )


def _iresnet(depth: int) -> Family:
    return Family(partial(iresnet.IResNet, depth), (112, 112), iresnet.DOWNSCALE, HALF, HALF)


MODELS: dict[str, Family] = {
    "mobilenet": _mobilenet(1.0),
    "mobilenet_1_5x": _mobilenet(1.5),
    "mobilenet_2x": _mobilenet(2.0),
    "rmnet": Family(rmnet.RMNet, (128, 128), rmnet.DOWNSCALE, last_linear="conv1_extra"),
    "shufflenetv2": Family(shufflenet.ShuffleNetV2, (128, 128), shufflenet.DOWNSCALE, last_linear="conv1_extra"),
    "resnet": _face_resnet(Bottleneck, BLOCKS_50),
    "se_resnet": _face_resnet(SEBottleneck, BLOCKS_50),  # the reference's name of se_resnet50
    "se_resnet50": _face_resnet(SEBottleneck, BLOCKS_50),
    "se_resnet101": _face_resnet(SEBottleneck, BLOCKS_101),
    "se_resnet152": _face_resnet(SEBottleneck, BLOCKS_152),
    "resnet34": _resnet(resnet34),
    "resnet50": _resnet(resnet50),
    "resnet101": _resnet(resnet101),
    "resnet50_caffe": _caffe(caffe_resnet.Bottleneck),
    "senet50_caffe": _caffe(caffe_resnet.SqueezedBottleneck),
    **{f"iresnet{depth}": _iresnet(depth) for depth in iresnet.DEPTHS},
    "mbf": Family(
        insightface_mbf.InsightFaceMobileFaceNet,
        (112, 112),
        insightface_mbf.DOWNSCALE,
        HALF,
        HALF,
        last_linear="features.layers.2",
    ),
    "mobilefacenet": Family(
        mobilefacenet.PaperMobileFaceNet,
        (112, 112),
        mobilefacenet.DOWNSCALE,
        mobilefacenet.MEAN,
        mobilefacenet.STD,
        last_linear="linear1.conv",
    ),
}


def family(name: str) -> Family:
    """The family of a `--model`; InputError for a name that is none, or is timm's where timm isn't installed."""
    if name.startswith(TIMM):
        from fr.models.timm_models import timm_family

        return timm_family(name.removeprefix(TIMM))
    if name not in MODELS:
        raise InputError(unknown("model", name, MODELS))
    return MODELS[name]


def training_preprocessing(options: argparse.Namespace) -> Preprocessing:
    """The contract of a training: what its model was designed for, unless train.py's options ask for something else."""
    model = family(options.model)
    own = Preprocessing(
        model.input_size, options.template, options.alignment, model.color_order, model.mean, model.std
    )
    return own.with_overrides(options.input_size, options.mean, options.std, options.color_order)


def build_model(name: str, embed_size: int, input_size: tuple[int, int]) -> nn.Module:
    """A backbone with fresh weights: [B, 3, H, W] → [B, embed_size]. Draws from torch's generator.

    InputError for an unknown name and for (height, width) that it can't take.
    """
    model = family(name)
    if any(side % model.divisor for side in input_size):
        height, width = input_size
        raise InputError(f"{name} needs sides that are multiples of {model.divisor}, got {height}×{width}")
    return model.build(embed_size, input_size)
