"""Metrics are scikit-learn's and scipy's on all predictions together, each sample counted once."""

import json
import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.drawn import draw
from sft_lightning.tasks import TASKS, make_task
from sft_lightning.tasks.answer_scores import OUTPUTS_OR_NONE
from tests.exactness import figures
from tests.exactness.cases import CASES, OLD_TAGS, TAGS, make
from tests.exactness.jobs import CASES_IN_PARTS, HOW, LIMITED, SHARDED, SIZES, every, marked, measured
from tests.exactness.jobs import PARTS as IN_PARTS
from tests.exactness.measuring import (
    REFERENCES,
    Answers,
    drift,
    entity_scores,
    limited,
    measure,
    metrics_of,
    moved_module,
    of_outputs,
    one_by_one,
    reference,
    samples,
    source_samples,
)
from tests.exactness.training import in_one_piece
from tests.refused import refused
from tests.support import quiet_trainer, settle
from tests.tasks import boxes_by_hand, ctc_by_hand, squad_by_hand

BOUND = 1e-6
FORGETTING = "retention/forgetting"
REGRESSION = make_task(TaskInfo("regression", 1, metrics=["pearson", "spearman"]))
WITH_METRICS = [how for how in HOW if how != "predict"]
SAME_TASK = ("tags", "sets of labels", "choices", "questions", "images with masks", "images with boxes")
"""Cases whose source head is of the same task"""
EVERY_CASE = pytest.mark.parametrize("case", CASES)
PARTS = (SHARDED[0], "test", 0.5, "fsdp2")


def test_every_metric_of_every_task_has_a_reference() -> None:
    for name in TASKS:
        missing = {"loss", *of_outputs(name)} - REFERENCES.get(name, {}).keys() - entity_scores([], []).keys()
        missing -= {"bits_per_byte"}  # needs the text too: see `reference`
        assert not missing, f"{name}: add {missing} to REFERENCES in tests/exactness/measuring.py"


def check(found: dict[str, float], expected: dict[str, float], where: str) -> None:
    """Both NaN, or within BOUND of one another, relative to the value or to 1, whichever is larger.

    Forgetting is a difference: it can be no more exact than the metric it is a difference of.
    """
    missing = expected.keys() - found.keys()
    assert not missing, f"{missing} are not logged"
    for name, value in expected.items():
        if math.isnan(value) or math.isnan(found[name]):
            assert math.isnan(value) and math.isnan(found[name]), f"{name} is {found[name]}, it should be {value}"
            continue
        of = [abs(v) for k, v in expected.items() if k == name or (name == FORGETTING and k.startswith("retention/"))]
        off = abs(found[name] - value) / max(1.0, *of)
        figures.note(f"metrics, {where}", off, "relative")
        assert off <= BOUND, f"{name} is {found[name]:.9g}, it should be {value:.9g}: off by {off:.1e}"


@cache
def answers(case: str, rows: int, root: Path, split: str) -> dict[str, Answers]:
    """One sample at a time: student and teacher on the new task's inputs and on the source task's."""
    data, source = samples(case, rows), source_samples(case, rows)
    module = moved_module(case, root, data).double()
    assert module.network is not None and module.teacher is not None
    settle(data, module.network)
    student, teacher = module.network, module.teacher.network.double()
    said = {"student": one_by_one(student, data, split), "teacher": one_by_one(teacher, data, split)}
    if source is not None:
        source.setup()
        source.settle(student.input_spec)
        said["student on the source"] = one_by_one(student, source, split)
        said["teacher on the source"] = one_by_one(teacher, source, split)
    return said


def expected(case: str, rows: int, root: Path, how: str) -> dict[str, float]:
    own, split = CASES[case], "test" if how == "test" else "val"
    said = answers(case, rows, root, split)
    names = metrics_of(case, samples(case, rows))
    values = {f"{split}/{k}": v for k, v in reference(own.task, names, said["student"]).items()}
    of_labels = own.task == "multi_label" and case in SAME_TASK
    values |= drift(said["student"], said["teacher"], shares_outputs=not own.new_head, of_labels=of_labels)
    if own.source is None:
        return values
    of_source, source_task = own.new_head, own.task if case in SAME_TASK or not own.new_head else "classification"
    labels = {"token_classification": list(OLD_TAGS), "extractive_qa": OUTPUTS_OR_NONE}.get(source_task, [])
    asked = list(source.metrics) if (source := source_samples(case, rows)) is not None else []
    task = make_task(TaskInfo(source_task, len(labels) or 3, labels, asked))
    now, before = (
        {f"retention/{k}": v for k, v in reference(source_task, task.metric_names, said[who], of_source).items()}
        for who in ("student on the source", "teacher on the source")
    )
    values |= now
    if how != "validate":  # else nobody asked the teacher
        primary = task.primary
        lost = before[f"retention/{primary.name}"] - now[f"retention/{primary.name}"]
        values[FORGETTING] = lost if primary.better == "max" else -lost
    return values


alone = cache(measure)


@measured(*WITH_METRICS)
def test_metrics_are_the_reference_on_all_predictions(root: Path, case: str, rows: int, how: str) -> None:
    found = alone(case, rows, root, how)
    check(found["metrics"], expected(case, rows, root, how), "1 process")
    assert Counter(found["rows"]) == Counter(range(rows)), "a sample is missing, or counted twice"


UNDEFINED = {"one item": 1, "all alike": 21, "too many alike for 32 bits to add their ranks": 70_000}


@pytest.mark.parametrize("what", UNDEFINED)
@pytest.mark.parametrize("constant", ["said", "true"])
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_correlation_that_is_undefined_is_nan(metric: str, constant: str, what: str) -> None:
    """As scipy has it."""
    items = UNDEFINED[what]
    alike, other = torch.full((items,), 3.1), torch.linspace(-1, 1, items)
    said, true = (alike, other) if constant == "said" else (other, alike)
    meter = REGRESSION.make_metrics()[metric]
    REGRESSION.update_rows(meter, said[:, None], true)
    assert math.isnan(float(meter.compute()))


@pytest.mark.parametrize("items", [2, 3, 5, 100_000])
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_with_ties_are_scipys(metric: str, items: int) -> None:
    generator = torch.Generator().manual_seed(items)
    true = torch.randint(0, 4, (items,), generator=generator).float()
    true[:2] = torch.tensor([0.0, 3.0])
    said = (true + torch.randn(items, generator=generator) / 4).round()
    meter = REGRESSION.make_metrics()[metric]
    for part in range(0, items, 4096):
        REGRESSION.update_rows(meter, said[part : part + 4096, None], true[part : part + 4096])
    expected = REFERENCES["regression"][metric](said[:, None].double().numpy(), true.double().numpy())
    check({metric: float(meter.compute())}, {metric: expected}, "correlations with ties")


def test_perplexity_is_finite_where_a_token_was_all_but_impossible() -> None:
    task = make_task(TaskInfo("causal_lm", 2))
    logits, y = torch.tensor([[0.0, -110.0], [0.0, 0.0]]), torch.tensor([1, 0])
    meter = task.make_metrics()["perplexity"]
    task.update_rows(meter, logits, y)
    expected = REFERENCES["causal_lm"]["perplexity"](logits.double().numpy(), y.numpy())
    assert float(meter.compute()) == pytest.approx(expected, rel=1e-6)


class Mask(Callback):
    """Takes all items out of every validation batch."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        select = batch.get("select", torch.ones(len(batch["index"]), dtype=torch.bool))
        batch["select"] = torch.zeros_like(select)
        batch["y"], batch["count"] = batch["y"][:0], 0


@EVERY_CASE
def test_a_validation_with_nothing_to_measure_is_an_error_and_no_nan(root: Path, case: str) -> None:
    data = samples(case, 5)
    trainer = quiet_trainer(callbacks=[Mask()])
    with refused("data", "data.max_length", "trainer.limit_val_batches"):
        trainer.validate(make(case, "plain", root), data, verbose=False)


@measured(*WITH_METRICS)
def test_two_processes_measure_the_same(together: Any, root: Path, case: str, rows: int, how: str) -> None:
    ranks = together("measure", case, rows, how)
    one = alone(case, rows, root, how)["metrics"]
    for rank in ranks:
        check(rank["metrics"], expected(case, rows, root, how), "2 processes")
        assert rank["metrics"] == pytest.approx(one, rel=1e-5, abs=1e-6, nan_ok=True), "other than one process"
    assert Counter(ranks[0]["rows"] + ranks[1]["rows"]) == Counter(range(rows)), "a sample is missing, or counted twice"


@pytest.mark.parametrize(("case", "how", "limit", "strategy"), [*((*job, "ddp") for job in LIMITED), PARTS])
def test_two_processes_draw_the_same_samples(
    together: Any, root: Path, case: str, how: str, limit: float, strategy: str
) -> None:
    ranks = together("limited", case, how, limit, *([] if strategy == "ddp" else [strategy]))
    one = limited(case, root, how, limit)
    wanted = Counter(draw(21, 8 if limit == 2 else 10).tolist())
    assert Counter(one["rows"]) == wanted, "one process measures other samples"
    assert Counter(ranks[0]["rows"] + ranks[1]["rows"]) == wanted, "two processes measure other samples"
    drift = "n/test/drift" if how == "test" else "n/drift"
    for rank in ranks:
        assert rank["metrics"] == pytest.approx(one["metrics"], rel=1e-5, abs=1e-6, nan_ok=True), (
            "other than one process"
        )
        assert rank["metrics"][drift] == 3, "student and teacher are compared on other samples than asked for"


def sharded_measures_the_same(results: Any, root: Path, case: str, rows: int, how: str) -> None:
    ranks = results("measure", case, rows, how, "fsdp2")
    one = alone(case, rows, root, how)["metrics"]
    for rank in ranks:
        check(rank["metrics"], expected(case, rows, root, how), "2 processes fsdp2")
        assert rank["metrics"] == pytest.approx(one, rel=1e-5, abs=1e-6, nan_ok=True), "other than one process"


@pytest.mark.parametrize(
    ("case", "how"), [marked((case, how), (case, how) in IN_PARTS) for case in SHARDED for how in WITH_METRICS]
)
def test_a_sharded_network_measures_the_same(together: Any, root: Path, case: str, how: str) -> None:
    """Drift and what is kept of the source too: the teacher is in parts as well."""
    sharded_measures_the_same(together, root, case, 5, how)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES_IN_PARTS)
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("how", WITH_METRICS)
def test_any_sharded_network_measures_the_same(together: Any, root: Path, case: str, rows: int, how: str) -> None:
    sharded_measures_the_same(together, root, case, rows, how)


@measured("predict")
def test_predictions_have_every_sample_once_in_order(together: Any, root: Path, case: str, rows: int, how: str) -> None:
    written = measure(case, rows, root, how)["predictions"]
    said = answers(case, rows, root, "test")["student"]
    lines = [json.loads(line) for line in written.splitlines()]
    samples = sorted(set(said.row_of_item))
    assert [line["index"] for line in lines] == samples, "a sample is missing, or comes twice"
    of_sample = {row: np.flatnonzero(np.array(said.row_of_item) == row) for row in samples}
    wanted = [{"index": row, **in_words(case, said, items)} for row, items in of_sample.items()]
    for line, want in zip(lines, wanted, strict=True):
        if case == "images with boxes":
            assert line.pop("file") == f"sample {line['index']}"
            found, right = np.array(line.pop("boxes")).reshape(-1, 4), np.array(want.pop("boxes")).reshape(-1, 4)
            assert found == pytest.approx(right, abs=0.0051), "other boxes than those of the image alone, rounded"
        if case == "questions":
            listed = {one["answer"]: one["score"] for one in line.pop("n_best")}
            assert listed == pytest.approx(want.pop("n_best"), abs=2e-6), "other answers are likely"
        by_data = {"sounds": "file", "transcripts": "file", "speech": "file", "choices": "text"}.get(case)
        assert by_data is None or line.pop(by_data) is not None
        assert sum(line.pop("pixels", [36])) == 36, "a pixel has no class, or two"
        assert line.keys() == want.keys()
        for key, value in want.items():
            as_said = key in ("text", "label", "labels", "tags", "answer", "mask", "words")
            assert line[key] == (value if as_said else pytest.approx(value, abs=2e-6)), f"{line}, not {want}"
    assert together("measure", case, rows, how)[0]["predictions"] == written, "two processes predict something else"


def in_words(case: str, said: Answers, items: np.ndarray) -> dict[str, Any]:
    """A sample's prediction as predictions.jsonl has it, from the logits of its items."""
    logits = said.logits[items]
    if CASES[case].task == "extractive_qa":
        asked = (logits[0], said.beside[items[0]])
        return {
            **squad_by_hand.answer(*asked, may_be_none=True),
            "n_best": squad_by_hand.n_best(*asked, may_be_none=True),
        }
    if CASES[case].task == "ctc":
        return ctc_by_hand.answer(logits[0])
    if CASES[case].task == "object_detection":
        return boxes_by_hand.answer(logits[0], said.beside[items[0]], ["a", "b", "c"])
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    likeliest, certain = probabilities.argmax(1).tolist(), probabilities.max(1).tolist()
    task = CASES[case].task
    if task == "regression":
        return {"value": logits[0, 0]} if logits.shape[1] == 1 else {"values": dict(zip("xy", logits[0], strict=True))}
    if task in ("causal_lm", "seq2seq"):
        return {"tokens": likeliest, "probabilities": certain}
    if task == "semantic_segmentation":  # of all pixels, also those without a label
        return {"mask": f"masks/{said.row_of_item[items[0]]:06d}-sample_{said.row_of_item[items[0]]}.png"}
    if task == "token_classification":
        return {"tags": [TAGS[i] for i in likeliest], "probabilities": certain}
    if task == "multiple_choice":
        there = [p for p, score in zip(probabilities[0].tolist(), logits[0], strict=True) if score > -1e29]
        return {"choice": likeliest[0], "probabilities": there}
    data = samples(case, 1)
    data.setup()
    assert data.task_info is not None
    if task == "multi_label":
        p = 1 / (1 + np.exp(-logits[0]))
        names = [name for name, one in zip(data.task_info.labels, p, strict=True) if one > 0.5]
        return {"labels": names, "probabilities": p.tolist()}
    return {"label": data.task_info.labels[likeliest[0]], "probabilities": probabilities[0].tolist()}


@every("end of an epoch")
def test_metrics_at_the_end_of_an_epoch_are_those_of_the_weights_then(root: Path, case: str, variant: str) -> None:
    run = in_one_piece(case, variant, root)
    network = run.module.network
    assert network is not None
    now = {n: v.clone() for n, v in network.state_dict().items()}
    network.load_state_dict(run.steps[1].after)
    said = one_by_one(network, run.data, "val")
    network.load_state_dict(now)
    assert run.module.task is not None
    names = run.module.task.metric_names
    wanted = {f"val/{k}": v for k, v in reference(CASES[case].task, names, said).items()}
    check(run.metrics, wanted, "validation inside fit")
