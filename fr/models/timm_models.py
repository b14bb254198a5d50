"""`--model timm/<name>`: backbones of PyTorch Image Models, an optional package (requirements-timm.txt).

https://github.com/huggingface/pytorch-image-models. The classification layer gives the embedding. Input size, mean and
std are those of timm's pretrained weights, which aren't loaded.
"""

from functools import partial

import torch
from torch import nn

from fr.errors import InputError, unknown
from fr.models.family import Family
from fr.options.names import TIMM


def timm_family(name: str) -> Family:
    """Family of `timm/<name>`; InputError without timm, or for a name that timm doesn't know."""
    try:
        import timm
    except ImportError:
        raise InputError(f"--model {TIMM}{name}: install it with: bash init_venv.sh --with timm") from None
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise InputError(unknown("model", TIMM + name, [TIMM + known for known in timm.list_models()]))
    _, height, width = config.input_size
    build = partial(_build, name, fixed_size=config.fixed_input_size)
    last = config.classifier if isinstance(config.classifier, str) else ""  # distilled models have two
    return Family(build, (height, width), mean=config.mean, std=config.std, last_linear=last)


def _build(name: str, embed_size: int, input_size: tuple[int, int], fixed_size: bool) -> nn.Module:
    """Build a network [B, 3, H, W] → [B, embed_size], not normalised; InputError where that fails."""
    import timm

    sides = f"{input_size[0]}x{input_size[1]}"
    sized = {"img_size": input_size} if fixed_size else {}  # others have no such argument
    try:
        model = timm.create_model(name, pretrained=False, num_classes=embed_size, **sized)
        with torch.no_grad():  # evaluation mode draws no random numbers
            shape = model.eval()(torch.zeros(1, 3, *input_size)).shape
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--model {TIMM}{name}: doesn't work at {sides}: {reason}") from error
    if shape != (1, embed_size):
        raise InputError(f"--model {TIMM}{name}: gives {list(shape)} for an image, not {embed_size} numbers")
    head = model.get_classifier()
    if isinstance(head, nn.Linear) and not head.weight.is_meta and not head.weight.any():
        head.reset_parameters()  # MLP mixers initialise it with zeros; a zero embedding's direction has no gradient
    trainable: nn.Module = model.train()
    return trainable
