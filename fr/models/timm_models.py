"""`--model timm/<name>`: backbones of PyTorch Image Models, an optional package (requirements-timm.txt).

https://github.com/huggingface/pytorch-image-models. The classification layer gives the embedding. Input size, mean and
std are those of timm's pretrained weights, which `pretrained` loads. Its layers of stochastic depth and dropout are
replaced by those of `fr.models.drops`; networks with other random layers are refused.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fr.errors import InputError, unknown
from fr.models.drops import Dropout, DropPath
from fr.models.family import Family, check_kwargs
from fr.options.names import TIMM

_OURS = ("num_classes", "img_size", "in_chans", "device", "dtype")  # set by other options or the trainer
Tensors = dict[str, torch.Tensor]


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
    build = partial(_build, name, config.fixed_input_size)
    last = config.classifier if isinstance(config.classifier, str) else ""  # distilled models have two
    return Family(build, (height, width), mean=config.mean, std=config.std, last_linear=last, settings=None)


def _build(name: str, sized: bool, embed_size: int, input_size: tuple[int, int], **kwargs: Any) -> nn.Module:
    """Build a network [B, 3, H, W] → [B, embed_size], not normalised; InputError if that fails.

    sized: the network has an argument for its input size.
    """
    import timm

    problem = f"--model {TIMM}{name}: doesn't work at {input_size[0]}x{input_size[1]}"
    if kwargs:
        check_kwargs(TIMM + name, kwargs, _settings(name))
        problem += f" with --model_kwargs {' '.join(f'{key}={value}' for key, value in kwargs.items())}"
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    if sized:
        arguments["img_size"] = input_size
    with _refused(problem):
        model = timm.create_model(name, pretrained=False, num_classes=embed_size, **arguments)
        _drop_by_address(model)
        with torch.no_grad():  # evaluation mode draws no random numbers
            shape = model.eval()(torch.zeros(1, 3, *input_size)).shape
        if _draws(model, input_size):
            raise ValueError("it would drop by other random numbers than those of seed, iteration and sample")
    if shape != (1, embed_size):
        raise InputError(f"--model {TIMM}{name}: gives {list(shape)} for an image, not {embed_size} numbers")
    head = model.get_classifier()
    if isinstance(head, nn.Linear) and not head.weight.is_meta and not head.weight.any():
        head.reset_parameters()  # MLP mixers initialise it with zeros; a zero embedding's direction has no gradient
    trainable: nn.Module = model.train()
    return trainable


@contextmanager
def _refused(problem: str) -> Iterator[None]:
    """Context that raises timm's exceptions for invalid settings as InputError."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{problem}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _settings(name: str) -> dict[str, Any]:
    """Arguments of the network's class whose defaults are builtins, with these defaults."""
    import timm

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        arguments = inspect.signature(type(timm.create_model(name))).parameters.values()
    defaults = {argument.name: argument.default for argument in arguments if argument.name not in _OURS}
    builtin = (bool, int, float, str, tuple, type(None))
    return {key: default for key, default in defaults.items() if isinstance(default, builtin)}


def _drop_by_address(model: nn.Module) -> None:
    """Replace timm's DropPath and torch's Dropout."""
    from timm.layers import DropPath as TimmDropPath

    for parent in list(model.modules()):
        for key, child in parent.named_children():
            if isinstance(child, TimmDropPath) and child.drop_prob:
                setattr(parent, key, DropPath(child.drop_prob))
            elif type(child) is nn.Dropout and child.p:
                setattr(parent, key, Dropout(child.p))
                if key == "attn_drop" and hasattr(parent, "fused_attn"):
                    parent.fused_attn = False  # type: ignore[assignment]  # the fused operator has its own dropout


@torch.no_grad()
def _draws(model: nn.Module, input_size: tuple[int, int]) -> bool:
    """Return True if a forward pass in training mode uses torch's random generator."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # so that its statistics don't change
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        model(torch.zeros(2, 3, *input_size))
        return not torch.equal(before, torch.get_rng_state())


def resampled(model: nn.Module, tensors: Tensors, input_size: tuple[int, int] | None) -> Tensors:
    """Resample position embeddings and patches in weights of a timm network to the sizes of `model`.

    input_size: of the images that the weights are for. Other networks of timm, without such a function, are unchanged.
    """
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    ours = model.state_dict()
    if resample is None or all(key in ours and ours[key].shape == one.shape for key, one in tensors.items()):
        return tensors
    if input_size:
        model.pretrained_model_args = {"img_size": input_size}  # type: ignore[assignment]  # read by `resample`
    with _refused("the initial weights can't be resampled to this run's network"):
        fitted: Tensors = resample(dict(tensors), model)
    return fitted


def pretrained(name: str) -> tuple[Tensors, tuple[str, ...]]:
    """timm's pretrained weights of `timm/<name>`, downloaded if needed, and the names of its classification layers.

    InputError if they can't be downloaded or read.
    """
    import timm

    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of the network, the disk, or a damaged file
        raise InputError(f"--pretrained: {TIMM}{name}: {_reason(error)}") from error
    classifiers = model.pretrained_cfg.get("classifier") or ()
    return model.state_dict(), (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
