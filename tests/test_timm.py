"""`--model timm/<name>` on timm's own miniatures of a ViT and a ResNet; where timm is missing, skipped with a word."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fr.checkpoint import snapshot
from fr.errors import InputError
from fr.evaluation.scored_model import load_backbone, read_backbone
from fr.losses.classifier import MarginSoftmax
from fr.models import build_model, family, training_preprocessing, undecayed
from fr.models.drops import drawn, drops_of
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.options.names import MODEL_NAMES
from fr.options.types import keyword_arguments
from fr.preprocessing import Preprocessing
from fr.weights import layouts
from fr.weights.initial_weights import InitialWeights, initialise
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


SETTINGS: dict[str, Any] = {"patch_size": 8, "reg_tokens": 2, "drop_path_rate": 0.2, "act_layer": "silu"}


@needs_timm
def test_settings_reach_the_network() -> None:
    plain = build_model("timm/test_vit", 24, (64, 64))
    model = build_model("timm/test_vit", 24, (64, 64), SETTINGS)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    width = len(plain.state_dict()["norm.weight"])
    assert shapes["patch_embed.proj.weight"] == (width, 3, 8, 8) and shapes["reg_token"] == (1, 2, width)
    assert shapes["pos_embed"] == (1, 8 * 8 + 1 + 2, width)
    assert any(isinstance(module, nn.SiLU) for module in model.modules())
    assert max(drop.rate for drop in drops_of(model)) == pytest.approx(0.2) and not drops_of(plain)


@needs_timm
def test_every_random_number_of_its_layers_is_drawn_by_address() -> None:
    """Stochastic depth and dropout of elements, heads and attention: nothing comes from torch's generator."""
    rates = dict.fromkeys(("drop_path_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"), 0.3)
    model = build_model("timm/test_vit", 24, (64, 64), {**rates, "drop_rate": 0.3})
    images = torch.rand(6, 3, 64, 64)

    def embeddings(first: int, of: torch.Tensor) -> torch.Tensor:
        with drawn(drops_of(model), 3, 7, first, of), torch.no_grad():
            return model(of)

    before = torch.get_rng_state()
    together = embeddings(0, images)
    assert torch.equal(before, torch.get_rng_state())
    # Products of other batch sizes may add up in another order: float32 through 6 blocks.
    torch.testing.assert_close(torch.cat([embeddings(0, images[:2]), embeddings(2, images[2:])]), together)
    assert not torch.allclose(embeddings(1, images), together)
    assert not torch.allclose(model.eval()(images), together)


@needs_timm
def test_a_network_that_would_draw_otherwise_is_refused() -> None:
    build_model("timm/test_resnet", 24, (64, 64), {"drop_path_rate": 0.2})
    with pytest.raises(InputError, match=r"with --model_kwargs drop_rate=0\.2: it would drop by other random numbers"):
        build_model("timm/test_resnet", 24, (64, 64), {"drop_rate": 0.2})


@needs_timm
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patchsize": 8}, r"^--model_kwargs patchsize: timm/test_vit has no such setting; it takes .*, patch_size, "),
        ({"img_size": 64}, r"^--model_kwargs img_size: timm/test_vit has no such setting"),
        ({"checkpoint_path": "/x"}, r"^--model_kwargs checkpoint_path: timm/test_vit has no such setting"),
        ({"patch_size": "big"}, r"^--model_kwargs patch_size=big: timm/test_vit takes a value as 16$"),
        ({"class_token": 1}, r"^--model_kwargs class_token=1: timm/test_vit takes a value as True$"),
        ({"num_heads": 7}, r"^--model timm/test_vit: doesn't work at 64x64 with --model_kwargs num_heads=7: "),
        ({"global_pool": "none"}, r"^--model timm/test_vit: .* with --model_kwargs global_pool=none: "),
    ],
)
def test_settings_that_a_network_cannot_have_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model("timm/test_vit", 24, (64, 64), kwargs)


@needs_timm
def test_positions_are_left_without_weight_decay() -> None:
    assert {"pos_embed", "cls_token"} <= undecayed(build_model("timm/test_vit", 24, (64, 64)))
    assert undecayed(build_model("timm/test_resnet", 24, (64, 64))) == set()


def vit_snapshot(folder: Path) -> tuple[Path, nn.Module]:
    """A snapshot of a ViT with patches of 16 pixels for images of 96 × 64."""
    model = build_model("timm/test_vit", 24, (96, 64), {"reg_tokens": 2})
    contents = snapshot.SnapshotContents(
        "timm/test_vit", 24, Preprocessing((96, 64)).as_dict(), state_dict=model.state_dict(),
        model_kwargs={"reg_tokens": 2},
    )  # fmt: skip
    snapshot.write_weights(folder / "vit_1.pt", contents)
    return folder / "vit_1.pt", model


@needs_timm
def test_a_snapshot_is_scored_with_its_settings(tmp_path: Path) -> None:
    path, model = vit_snapshot(tmp_path)
    again = load_backbone(path, snapshot.read(path), (96, 64))
    images = torch.rand(2, 3, 96, 64)
    assert torch.equal(again(images), model.eval()(images))


@needs_timm
def test_initial_weights_are_resampled_to_other_sizes_by_timms_functions(one_rank: None, tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    path, theirs = vit_snapshot(tmp_path)
    ours = build_model("timm/test_vit", 24, (64, 64), {"reg_tokens": 2, "patch_size": 8})
    wish = InitialWeights(str(path), False, "", False, "timm/test_vit", ["reg_tokens=2", "patch_size=8"])
    head = MarginSoftmax(3, 24, LossSettings(), seed=0)
    initialise(ours, head, ["a", "b", "c"], wish, resumed=False)
    state, stored = ours.state_dict(), theirs.state_dict()
    kernel = stored["patch_embed.proj.weight"]
    assert torch.equal(state["patch_embed.proj.weight"], resample_patch_embed(kernel, [8, 8]))
    positions = resample_abs_pos_embed(stored["pos_embed"], [8, 8], [6, 4], num_prefix_tokens=3)
    assert torch.equal(state["pos_embed"], positions)
    others = stored.keys() - {"patch_embed.proj.weight", "pos_embed"}
    assert all(torch.equal(state[key], stored[key]) for key in others)


@needs_timm
def test_a_file_of_timm_is_known_by_the_settings_that_it_was_trained_with(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    settings: dict[str, Any] = {"class_token": False, "global_pool": "avg", "reg_tokens": 1}
    theirs = timm.create_model("test_vit", num_classes=24, img_size=(64, 64), **settings)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = build_model("timm/test_vit", 24, (64, 64), settings)
    head = MarginSoftmax(3, 24, LossSettings(), seed=0)
    words = ["class_token=false", "global_pool=avg", "reg_tokens=1"]
    wish = InitialWeights(str(tmp_path / "theirs.pth"), False, "", False, "timm/test_vit", words)
    asked: list[Any] = []

    def noting(*given: Any) -> nn.Module:
        asked.append(given[3])
        return build_model(*given)

    monkeypatch.setattr(layouts, "build_model", noting)
    initialise(ours, head, ["a", "b", "c"], wish, resumed=False)
    assert asked and all(kwargs == settings for kwargs in asked)  # keys and embedding size are those of that network
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())


@needs_timm
def test_a_file_of_timm_is_imported_with_its_settings(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("test_vit", num_classes=24, class_token=False, global_pool="avg", reg_tokens=1).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt"), "--model", "timm/test_vit"]
    with pytest.raises(InputError, match="weights of an unknown kind"):
        import_weights.main(words)
    words += ["--model_kwargs", "class_token=false", "global_pool=avg", "reg_tokens=1"]
    assert import_weights.main(words) == 0
    images = torch.rand(2, 3, 160, 160)
    ours = load_backbone(tmp_path / "ours.pt", snapshot.read(tmp_path / "ours.pt"), (160, 160))
    assert torch.equal(ours(images), theirs(images))


@needs_timm
def test_pretrained_weights_are_timms_but_for_the_classifier(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    published, create = timm.create_model("test_vit"), timm.create_model
    torch.save(published.state_dict(), tmp_path / "published.pth")

    def create_here(name: str, pretrained: bool = False, **how: Any) -> nn.Module:
        overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "published.pth")}} if pretrained else {}
        return create(name, pretrained, **how, **overlay)

    monkeypatch.setattr(timm, "create_model", create_here)
    ours = build_model("timm/test_vit", 24, (160, 160))
    head = MarginSoftmax(3, 24, LossSettings(), seed=0)
    fresh = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    wish = InitialWeights("", False, "", True, "timm/test_vit", [])
    said = initialise(ours, head, ["a", "b", "c"], wish, resumed=False)
    assert "left out: 2" in said and "start from initial values: 2" in said
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, (fresh if key.startswith("head.") else published.state_dict())[key]), key
    (tmp_path / "published.pth").unlink()
    with pytest.raises(InputError, match=r"^--pretrained: timm/test_vit: FileNotFoundError$"):
        initialise(ours, head, ["a", "b", "c"], wish, resumed=False)


def test_the_recipe_names_a_network_that_takes_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$(\w+)", RECIPE.read_text()):
        monkeypatch.setenv(name, f"/{name}")
    options = train_options([f"@{RECIPE}"]).values
    preprocessing = training_preprocessing(options)
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    kwargs = keyword_arguments(options.model_kwargs)
    with torch.device("meta"):
        model = build_model(options.model, options.embed_size, preprocessing.input_size, kwargs).eval()
        assert model(torch.zeros(1, 3, *preprocessing.input_size)).shape == (1, options.embed_size)


@needs_timm
def test_a_file_of_timm_is_known_by_the_name_that_is_given(tmp_path: Path) -> None:
    """Its training script's checkpoints: the network under `state_dict`, which DDP prefixes."""
    import timm

    theirs = timm.create_model("test_vit", num_classes=24).eval()
    torch.save({"arch": "test_vit", "state_dict": with_prefix(theirs.state_dict())}, tmp_path / "model_best.pth.tar")
    command = [str(tmp_path / "model_best.pth.tar"), str(tmp_path / "out.pt")]
    with pytest.raises(InputError, match="weights of an unknown kind"):
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
    """Configuration of weights trained on ImageNet, in a file of Hugging Face's Hub."""
    import timm

    theirs = timm.create_model("test_resnet", num_classes=1000).state_dict()
    save_safetensors(theirs, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path / "model.safetensors", "timm/test_resnet")
    ours = build_model("timm/test_resnet", 24, (64, 64))
    said = fit(ours, weights, partial=True)
    assert "  fc.weight is [1000, 96] there, [24, 96] here" in said
    state = ours.state_dict()
    assert all(torch.equal(state[key], theirs[key]) for key in state if not key.startswith("fc."))
