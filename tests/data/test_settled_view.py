"""The settled view: the data says as a value how samples come, each network takes it over by itself."""

import pytest
from torch import Tensor

from sft_lightning.core.structures import InputSpec, InputView, TaskInfo
from sft_lightning.data import Digits
from sft_lightning.evaluation.source import settle_source
from sft_lightning.networks import MLP
from tests.refused import refused

TASK = TaskInfo("classification", 10, [str(d) for d in range(10)])


class Sized(MLP):
    """Sees no pixels."""

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        return x["image"].new_zeros(len(x["image"]), 256)


def ready() -> Digits:
    data = Digits(image_size=12)
    data.setup()
    return data


@pytest.mark.parametrize(
    "view",
    [
        InputView(),
        InputView(mean=(0.5,), std=(0.25,)),
        InputView((4, 6), (0.1, 0.2, 0.3), (1, 1, 1), {"resize": 7}, reverse_channels=True),
    ],
    ids=["of texts", "of the data's size", "of a library"],
)
def test_a_view_comes_back_from_an_export(view: InputView) -> None:
    assert InputView.of(view.to_dict()) == view


@pytest.mark.parametrize("values", [{"mean": 0.5}, [1, 2], "nothing"])
def test_an_export_that_describes_no_view_is_refused(values: object) -> None:
    with refused("network.pretrained", "config.json", "sft_lightning.input"):
        InputView.of(values)  # type: ignore[arg-type]


def test_every_network_of_a_data_module_learns_how_samples_come() -> None:
    data, networks = ready(), (Sized(TASK), Sized(TASK))
    for network in networks:
        network.settle(data.settle(network.input_spec))
        stated = network.input_view
        assert (stated.size, stated.shape, stated.mean) == ((12, 12), (1, 12, 12), Digits.mean)


def test_the_source_data_settles_without_touching_the_network() -> None:
    network, pretrained, source = Sized(TASK), Sized(TASK), ready()
    network.settle(InputView(mean=(0.9,), std=(0.8,)))
    pretrained.settle(InputView(mean=(0.3,), std=(0.7,)))
    before = network.input_view
    assert settle_source(network, pretrained, source).mean == (0.3,)
    assert settle_source(network, None, ready()).mean == Digits.mean, "the target's statistics are of other images"
    assert network.input_view is before and not network.report.notes


def test_a_network_refuses_a_view_that_it_cannot_take() -> None:
    network = MLP(TASK, in_features=64)
    with refused("network.in_features", 64, 144):
        network.settle(ready().settle(network.input_spec))


def test_data_of_another_kind_than_the_network_takes_is_refused() -> None:
    with refused("network", "Bert", "Digits"):
        ready().settle(InputSpec("text", network="Bert"))
