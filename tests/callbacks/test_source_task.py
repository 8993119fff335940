"""What agreement and divergence mean follows from the kept source head's own task; where nothing is meant they are absent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy, pearsonr

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import Items, TaskInfo
from sft_lightning.modules import DistillSFT, SFTModule
from sft_lightning.networks import MLP, TransformersImage, spec
from tests.refused import refused
from tests.support import FewDigits, fit, pretrained_mlp

PROBLEMS: dict[str, tuple[str | None, int, str]] = {
    "classes": (None, 4, "classification"),
    "multi-label": ("multi_label_classification", 4, "multi_label"),
    "a reranker's one output": (None, 1, "regression"),
    "a regression's one output": ("regression", 1, "regression"),
    "a regression's three outputs": ("regression", 3, "regression"),
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny ViT for each problem type, as transformers writes it."""
    import transformers as hf

    root = tmp_path_factory.mktemp("problems")
    for number, (name, (problem, outputs, _)) in enumerate(PROBLEMS.items()):
        torch.manual_seed(number)
        config = hf.ViTConfig(
            image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
        )
        config.num_labels, config.problem_type, config.initializer_range = outputs, problem, 0.2
        hf.ViTForImageClassification(config).save_pretrained(root / name)
    return {name: str(root / name) for name in PROBLEMS}


def few(**settings: Any) -> FewDigits:
    return FewDigits(**{"image_size": 8, "sizes": (16, 40, 8), **settings})


def module_on(net: str, **settings: Any) -> SFTModule:
    return DistillSFT(spec(TransformersImage, pretrained=net), lr=5e-3, **settings)


@torch.no_grad()
def both(module: SFTModule, data: FewDigits) -> tuple[np.ndarray, np.ndarray]:
    """What teacher and student say through the source head on all of val: `[N, S]`."""
    said = []
    for network in (module.teacher.network, module.network.eval()):  # type: ignore[union-attr]
        parts = [network(data.device_transform(batch)["x"]).source_logits for batch in data.loader("val", 0, 1)]
        said.append(torch.cat(parts).double().numpy())
    return said[0], said[1]


def by_hand(task: str, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    if task == "classification":
        agree = (before.argmax(1) == after.argmax(1)).mean()
        return {"retention/agreement": agree, "drift/kl": entropy(softmax(before, 1), softmax(after, 1), axis=1).mean()}
    if task == "multi_label":
        p, q = (np.stack([expit(v), expit(-v)]) for v in (before, after))
        agree = ((before > 0) == (after > 0)).mean()
        return {"retention/agreement": agree, "drift/kl": entropy(p, q, axis=0).sum(1).mean()}
    correlations = [pearsonr(b, a).statistic for b, a in zip(before.T, after.T, strict=True)]
    moved = ((after - before) ** 2).sum() / ((before - before.mean(0)) ** 2).sum()
    return {"drift/source_mse": moved, "drift/source_correlation": np.mean(correlations)}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gauges_are_those_of_the_source_heads_task(nets: dict[str, str], name: str) -> None:
    _, outputs, task = PROBLEMS[name]
    data, module, monitor = few(), module_on(nets[name]), RetentionMonitor()
    trainer = fit(module, data, max_epochs=2, callbacks=[monitor])
    assert module.network is not None and module.network.source_task == TaskInfo(task, outputs)
    found = {k: float(v) for k, v in trainer.callback_metrics.items()}
    every = {"retention/agreement", "drift/kl", "drift/source_mse", "drift/source_correlation"}
    wanted = by_hand(task, *both(module, data))
    assert {k for k in found if k in every} == wanted.keys(), f"a head of {task} has these gauges, and no others"
    for gauge, value in wanted.items():
        assert found[gauge] == pytest.approx(value, rel=1e-3, abs=1e-6), gauge
    start = {"retention/agreement": 1.0, "drift/kl": 0.0, "drift/source_mse": 0.0, "drift/source_correlation": 1.0}
    assert {k: monitor.before[k] for k in wanted} == pytest.approx({k: start[k] for k in wanted}, abs=1e-6)
    assert found != start


@pytest.mark.parametrize(
    ("name", "distance", "told"),
    [
        ("a reranker's one output", "kl", ["kl", "1 output ", "distance mse", "on: features"]),
        ("a regression's three outputs", "kl", ["kl", "3 outputs", "distance mse", "on: features"]),
        ("a regression's one output", "cosine", ["cosine", "distance mse", "on: features"]),
    ],
)
def test_an_anchor_that_would_always_be_0_is_refused(
    nets: dict[str, str], name: str, distance: Any, told: list[str]
) -> None:
    with refused("model.distance", *told):
        fit(module_on(nets[name], distance=distance), few(), max_steps=1)


def test_kl_on_a_multi_label_head_is_that_of_each_label(nets: dict[str, str]) -> None:
    data, module = few(), module_on(nets["multi-label"], distance="kl", temperature=2.0, anchor_weight=0.7)
    fit(module, data, max_epochs=1)
    before, after = both(module, data)
    student, teacher = items_of(module, first_x(data))
    p, q = (np.stack([expit(v / 2), expit(-v / 2)]) for v in (before, after))
    wanted = 4 * entropy(p, q, axis=0).sum(1)
    assert module.distance(student, teacher).detach().numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert wanted.mean() > 1e-4


def items_of(module: DistillSFT, x: dict[str, torch.Tensor]) -> list[Items]:
    """Student's and teacher's."""
    return [module.task.items(f(x), {}) for f in (module.network, module.teacher)]


def first_x(data: FewDigits) -> dict[str, torch.Tensor]:
    """All of val in one batch, in the loader's order."""
    batches = [data.device_transform(batch)["x"] for batch in data.loader("val", 0, 1)]
    return {"image": torch.cat([x["image"] for x in batches])}


def test_retention_data_of_another_kind_of_task_is_refused(nets: dict[str, str]) -> None:
    source = few(digits=(0, 1, 2, 3))  # four classes for a head of four labels
    with refused("retention", "multi_label", "classification"):
        fit(module_on(nets["multi-label"]), few(), max_steps=1, callbacks=[RetentionMonitor(source)])


def test_a_head_that_we_exported_is_known_by_its_task(tmp_path: Path) -> None:
    old = MLP(TaskInfo("regression", 1), in_features=64, hidden=[24, 16])
    old.save_pretrained(str(tmp_path))
    again = MLP(TaskInfo("classification", 5), **pretrained_mlp(str(tmp_path))["init_args"])
    assert again.source_task == TaskInfo("regression", 1)
