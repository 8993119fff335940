"""Networks of torchvision: the same numbers as torchvision's own, in our interface."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from sft_lightning.networks import Torchvision
from tests.networks.vision import TASK, check_layers, check_round_trip, images, logits, out, pickled_code, shaken
from tests.refused import refused

EVERY = models.list_models(module=models)
SMALLEST = [  # of each family, with the smallest side it takes, in pixels
    *(("alexnet", 64), ("convnext_tiny", 32), ("densenet121", 32), ("efficientnet_b0", 32), ("googlenet", 32)),
    *(("inception_v3", 75), ("mnasnet0_5", 32), ("mobilenet_v2", 32), ("mobilenet_v3_small", 32)),
    *(("regnet_y_400mf", 32), ("resnet18", 32), ("shufflenet_v2_x0_5", 32), ("squeezenet1_1", 32), ("swin_t", 32)),
]
LARGE = [("maxvit_t", 224), ("vgg11", 32), ("vit_b_32", 224), ("swin_v2_t", 64), ("wide_resnet50_2", 32)]


def original(name: str, classes: int = 7, **options: Any) -> Any:
    torch.manual_seed(0)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    return shaken(models.get_model(name, weights=None, num_classes=classes, **options))


def saved(model: Any, path: Path) -> str:
    save_file(model.state_dict(), path)
    return str(path)


def check(name: str, side: int, folder: Path) -> None:
    model = original(name)
    network = Torchvision(TASK, name, pretrained=saved(model, folder / "model.safetensors"))
    said = out(network, images(side))
    assert said.logits.shape == (2, 3)
    assert said.features.shape == (2, network.head.in_features)
    if name.startswith("squeezenet"):
        assert said.source_logits is None, "a convolution cannot be kept as a linear head"
    else:
        assert torch.equal(said.source_logits, logits(model, images(side)))
    assert not network.report.missing and not network.report.unexpected and not network.fresh
    check_layers(network)
    assert len(network.layers()) > 3


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "side"), SMALLEST)
def test_one_pass_gives_logits_features_and_what_the_original_model_says(name: str, side: int, tmp_path: Path) -> None:
    check(name, side, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), LARGE)
def test_so_it_is_with_the_larger_families(name: str, side: int, tmp_path: Path) -> None:
    check(name, side, tmp_path)


def without_weights(name: str) -> Torchvision:
    """The network without memory for its weights, where the architecture can be built so."""
    try:
        with torch.device("meta"):
            return Torchvision(TASK, name)
    except NotImplementedError:
        return Torchvision(TASK, name)


OF_EACH_FAMILY = {name for name, _ in SMALLEST}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in OF_EACH_FAMILY else pytest.mark.slow)
        for n in EVERY
        if not n.startswith("regnet")
    ],
)
def test_every_classification_model_gets_a_head_on_its_features(name: str) -> None:
    network = without_weights(name)
    device = next(network.parameters()).device
    side = (network.built_for or (96,))[0]
    said = network.eval()({"image": torch.zeros(2, 3, side, side, device=device)})
    assert said.logits.shape == (2, 3) and said.features.ndim == 2
    check_layers(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EVERY if n.startswith("regnet") and not n.endswith(("128gf", "_32gf"))])
def test_every_regnet_gets_a_head_on_its_features(name: str) -> None:
    assert out(Torchvision(TASK, name), images(32)).logits.shape == (2, 3)


def test_an_export_loads_as_it_was(tmp_path: Path) -> None:
    network = shaken(Torchvision(TASK, "resnet18"))
    check_round_trip(network, lambda t, p: Torchvision(t, "resnet18", pretrained=p), tmp_path, images(32))


def test_an_export_keeps_the_size_it_was_built_for(tmp_path: Path) -> None:
    network = shaken(Torchvision(TASK, "vit_b_32", image_size=64))
    check_round_trip(network, lambda t, p: Torchvision(t, "vit_b_32", pretrained=p), tmp_path, images(64))


def test_images_of_another_size_than_the_network_is_built_for_are_one_line() -> None:
    with torch.device("meta"):
        network = Torchvision(TASK, "vit_b_32")
    with refused("network.image_size", "vit_b_32", 224, 32):
        out(network, images(32))


def test_torchvisions_weights_bring_labels_size_and_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = original("resnet18", 1000)
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **kwargs: model.state_dict())
    network = Torchvision(TASK, "resnet18", pretrained="DEFAULT")
    assert torch.equal(out(network, images(32)).source_logits, logits(model, images(32)))
    assert network.source_labels[:2] == ["tench", "goldfish"] and len(network.source_labels) == 1000
    spec = network.input_spec
    assert (spec.size, spec.mean) == ((224, 224), (0.485, 0.456, 0.406))
    assert network.pretrained == "DEFAULT" and network.report.loaded == len(model.state_dict())


def test_networks_that_normalise_inside_are_fed_what_they_make_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    full = models.googlenet(weights=None, init_weights=False)
    weights = models.GoogLeNet_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **kwargs: full.state_dict())
    theirs = models.googlenet(weights=weights)
    network = Torchvision(TASK, "googlenet", pretrained="IMAGENET1K_V1")
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    spec = network.input_spec
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert torch.allclose(
        out(network, (pixels - 0.5) / 0.5).source_logits, logits(theirs, (pixels - mean) / std), atol=1e-4
    )
    assert not [n for n, m in network.named_modules() if "aux" in n and isinstance(m, nn.Linear)]


def test_the_names_of_densenets_old_files_are_understood(tmp_path: Path) -> None:
    model = original("densenet121")
    old = {n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for n, v in model.state_dict().items()}
    torch.save(old, tmp_path / "densenet.pth")
    network = Torchvision(TASK, "densenet121", pretrained=str(tmp_path / "densenet.pth"))
    assert torch.equal(out(network, images(32)).source_logits, logits(model, images(32)))


def test_what_is_missing_and_unexpected_is_reported_by_name(tmp_path: Path) -> None:
    state = original("resnet18").state_dict()
    state["extra.weight"] = state.pop("conv1.weight").clone()
    save_file(state, tmp_path / "model.safetensors")
    network = Torchvision(TASK, "resnet18", pretrained=str(tmp_path / "model.safetensors"))
    assert network.report.missing == ["conv1.weight"] and network.report.unexpected == ["extra.weight"]
    assert network.fresh == {"conv1.weight"}


def test_dropout_is_set_in_every_dropout_layer() -> None:
    network = Torchvision(TASK, "mobilenet_v3_small", dropout=0.4)
    found = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert found and set(found) == {0.4}


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)

    def check(key: str, *values: object, name: str = "resnet18", **options: Any) -> None:
        with refused(f"network.{key}", *values) as error:
            Torchvision(TASK, name, **options)
        assert "\n" not in str(error.value)

    check("name", "'resnet81'", "did you mean 'resnet", name="resnet81")
    check("name", "'fcn_resnet50'", name="fcn_resnet50")
    check("pretrained", "'IMAGENET1K_V3'", "did you mean 'IMAGENET1K_V1'", pretrained="IMAGENET1K_V3")
    check("pretrained", "DEFAULT", "https://", "no network", pretrained="DEFAULT")
    path = saved(original("resnet18"), tmp_path / "resnet.safetensors")
    check("pretrained", path, "bn1.num_batches_tracked", "features.0.weight", name="alexnet", pretrained=path)
    (tmp_path / "cut.safetensors").write_bytes(Path(path).read_bytes()[:5000])
    check("pretrained", tmp_path / "cut.safetensors", pretrained=str(tmp_path / "cut.safetensors"))
    torch.save({"a": pickled_code()}, tmp_path / "code.pth")
    check("pretrained", tmp_path / "code.pth", ".safetensors", pretrained=str(tmp_path / "code.pth"))
    Torchvision(TASK, "resnet18").save_pretrained(str(tmp_path / "ours"))
    check("pretrained", "Torchvision resnet18", "resnet34", name="resnet34", pretrained=str(tmp_path / "ours"))
    with refused("network", "vit_b_32"):
        Torchvision(TASK, "vit_b_32", image_size=50)
