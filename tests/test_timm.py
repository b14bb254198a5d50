"""`--model timm/<name>` on timm's own miniatures of a ViT and a ResNet; where timm is missing, skipped with a word."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fr.errors import InputError
from fr.evaluation.scored_model import load_backbone, read_backbone
from fr.models import build_model, family, training_preprocessing
from fr.options.definitions import train_options
from fr.options.names import MODEL_NAMES
from fr.weights.loading import fit, read_weights
from tests.conftest import REQUIRED
from tests.weight_files import save_safetensors, with_prefix
from tools import import_weights

RECIPE = Path(__file__).parents[1] / "configs" / "vit_arcface.yml"


@pytest.fixture
def _timm() -> None:
    pytest.importorskip("timm", reason="timm isn't installed: bash init_venv.sh --with timm")


def needs_timm(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.thorough(pytest.mark.usefixtures("_timm")(test))


@pytest.mark.parametrize("name", ["timm/", "timm", "mobilnet", "Mobilenet", "x"])
def test_a_model_that_no_one_has_is_refused_with_the_closest(name: str) -> None:
    with pytest.raises(InputError, match=rf"--model: unknown model '{name}'; the closest: \w+") as error:
        train_options([*REQUIRED, "--model", name])
    with pytest.raises(InputError, match="unknown model 'mobilnet'; the closest: mobilenet, "):
        family("mobilnet")
    closest = str(error.value).split("; the closest: ")[1].split(", ")
    assert set(closest) <= set(MODEL_NAMES)


def test_any_name_after_timm_is_left_to_timm() -> None:
    assert train_options([*REQUIRED, "--model", "timm/none_yet"]).values.model == "timm/none_yet"


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"--model timm/test_vit: install it with: bash init_venv\.sh --with timm$"):
        family("timm/test_vit")


@needs_timm
def test_a_name_that_timm_lacks_is_refused_with_the_closest() -> None:
    with pytest.raises(InputError, match=r"unknown model 'timm/resnet19'; the closest: timm/resnet\d+"):
        family("timm/resnet19")


@needs_timm
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_the_input_is_that_of_timms_own_weights(name: str) -> None:
    import timm

    theirs = timm.get_pretrained_cfg(name)
    own = family(f"timm/{name}")
    assert (3, *own.input_size) == theirs.input_size
    assert (own.mean, own.std, own.color_order) == (theirs.mean, theirs.std, "rgb")


@needs_timm
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])  # the first has to know its input size, the second not
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_one_embedding_an_image_and_gradients_for_every_parameter(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(f"timm/{name}", 24, size)
    assert all(module.training for module in model.modules())
    embeddings = model(torch.rand(4, 3, *size))
    assert embeddings.shape == (4, 24)
    embeddings.mul(torch.rand(4, 24)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@needs_timm
def test_the_weights_are_a_function_of_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(build_model("timm/test_vit", 24, (64, 64)).parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@needs_timm
def test_a_last_layer_that_starts_at_zero_is_given_weights() -> None:
    import timm

    settings = {"num_classes": 24, "img_size": (64, 64)}
    assert not timm.create_model("mixer_s32_224", **settings).head.weight.any()
    model = build_model("timm/mixer_s32_224", 24, (64, 64))
    with torch.no_grad():
        assert (model(torch.rand(2, 3, 64, 64)).norm(dim=1) > 0).all()


@needs_timm
def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match=r"^--model timm/test_vit: doesn't work at 72x64: Input height \(72\)"):
        build_model("timm/test_vit", 24, (72, 64))


@needs_timm
def test_a_network_that_gives_no_embedding_is_refused() -> None:
    with pytest.raises(InputError, match=r"^--model timm/test_vit: gives \[1, 64\] for an image, not 0 numbers"):
        build_model("timm/test_vit", 0, (64, 64))  # what timm takes for "no last layer"


@needs_timm
def test_the_recipe_names_a_network_that_takes_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$(\w+)", RECIPE.read_text()):
        monkeypatch.setenv(name, f"/{name}")
    options = train_options([f"@{RECIPE}"]).values
    preprocessing = training_preprocessing(options)
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    model = build_model(options.model, options.embed_size, preprocessing.input_size).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *preprocessing.input_size)).shape == (1, options.embed_size)


@needs_timm
def test_a_file_of_timm_is_known_by_the_name_that_is_given(tmp_path: Path) -> None:
    """Its training script's checkpoints: the network under `state_dict`, which DDP prefixes."""
    import timm

    theirs = timm.create_model("test_vit", num_classes=24).eval()
    torch.save({"arch": "test_vit", "state_dict": with_prefix(theirs.state_dict())}, tmp_path / "model_best.pth.tar")
    command = [str(tmp_path / "model_best.pth.tar"), str(tmp_path / "out.pt")]
    with pytest.raises(InputError, match="weights of no known kind"):
        import_weights.main(command)
    assert import_weights.main([*command, "--model", "timm/test_vit"]) == 0
    contents, preprocessing = read_backbone(tmp_path / "out.pt")
    assert (contents.model, contents.embed_size) == ("timm/test_vit", 24)
    ours = load_backbone(tmp_path / "out.pt", contents, preprocessing.input_size)
    images = torch.rand(2, 3, *preprocessing.input_size)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@needs_timm
def test_a_last_layer_of_another_size_begins_afresh(tmp_path: Path) -> None:
    """As that of weights trained on ImageNet, in a file of Hugging Face's Hub."""
    import timm

    theirs = timm.create_model("test_resnet", num_classes=1000).state_dict()
    save_safetensors(theirs, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path / "model.safetensors", "timm/test_resnet")
    ours = build_model("timm/test_resnet", 24, (64, 64))
    said = fit(ours, weights, partial=True)
    assert "  fc.weight is [1000, 96] there, [24, 96] here" in said
    state = ours.state_dict()
    assert all(torch.equal(state[key], theirs[key]) for key in state if not key.startswith("fc."))
