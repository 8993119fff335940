"""To define a class is to register it: what the registries hold, and how they refuse."""

from typing import Any

import pytest

from sft_lightning import data, modules, networks, tasks
from sft_lightning.core.registry import Registry
from sft_lightning.core.structures import TaskInfo
from tests.refused import refused


def test_what_the_packages_define_is_registered_and_can_be_imported_from_them() -> None:
    for package, registry in (
        (networks, networks.NETWORKS),
        (data, data.DATA_MODULES),
        (modules, modules.VARIANTS),
    ):
        own = {name: cls for name, cls in registry.items() if cls.__module__.startswith("sft_lightning.")}
        assert own, f"nothing is registered in {package.__name__}"
        for name, cls in own.items():
            assert getattr(package, name) is cls, f"{package.__name__}.{name} is another class than the registered one"
    assert {"classification", "regression", "multi_label", "causal_lm"} <= set(tasks.TASKS)


def test_bases_of_others_are_not_registered() -> None:
    assert not {"Backbone", "SmallNetwork"} & set(networks.NETWORKS)
    assert not {"TokenData", "TextData", "ImageData", "InMemoryImages"} & set(data.DATA_MODULES)


def test_a_class_of_ones_own_is_registered_and_does_not_take_anothers_name() -> None:
    registry: Registry[Any] = Registry("thing")
    first, again = (type("Thing", (), {"__module__": "a"}) for _ in range(2))
    registry.add_class(first)
    registry.add_class(again)
    assert dict(registry) == {"Thing": again}, "a class that is defined again, as in a notebook, replaces itself"
    other = type("Thing", (), {"__module__": "b"})
    registry.add_class(other)
    assert dict(registry) == {"Thing": again, "b.Thing": other}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with refused("network", "'MPL'", "'MLP'"):
        networks.NETWORKS.find("MPL")


def test_two_tasks_cannot_have_one_name() -> None:
    with pytest.raises(TypeError, match="task 'classification' is defined twice"):

        class Other(tasks.Classification):
            name = "classification"


def test_a_variant_with_a_method_of_an_earlier_version_is_refused() -> None:
    with pytest.raises(TypeError, match="anchor_loss"):

        class Old(modules.PlainSFT):
            def anchor(self) -> None: ...


def test_smoothing_is_refused_by_tasks_without_classes() -> None:
    with refused("model.label_smoothing", "regression"):
        tasks.make_task(TaskInfo("regression", 1), 0.1)
