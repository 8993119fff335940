"""Metrics on samples that are drawn anew, for tasks whose samples are not one item, or whose meters keep no sums."""

import re
import shlex
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
import yaml
from scipy.stats import binomtest, ttest_rel
from seqeval.metrics import f1_score
from torchmetrics.functional.classification import multiclass_calibration_error

from sft_lightning.cli.gate import make_parser
from sft_lightning.cli.main import COMMANDS
from sft_lightning.core.structures import Batch, Output, TaskInfo, Texts
from sft_lightning.gate import chosen_test
from sft_lightning.gate.chosen_test import drawn, is_mean
from sft_lightning.gate.decide import known
from sft_lightning.gate.requirement import parse
from sft_lightning.gate.scores import Collected, Scores, state_of
from sft_lightning.tasks import make_task
from sft_lightning.tasks.box_scores import BoxScores, Picture
from tests.refused import refused

TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


def values(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """True and predicted values."""
    random = torch.Generator().manual_seed(0)
    y = torch.randn(n, generator=random)
    return y, y + 0.5 * torch.randn(n, generator=random)


def of_values(n: int) -> Scores:
    """A regression's outputs, in two batches."""
    y, said = values(n)
    logits = said[:, None]
    found = Collected(make_task(TaskInfo("regression", 1)), final=False)
    for part in torch.split(torch.arange(n), n // 2 + 1):
        batch: Batch = {"y": y[part], "index": part, "count": len(part), "x": {}}
        assert found.take(batch, Output(logits[part], logits[part]))
    return found.scores()


def sentence(row: int, length: int) -> tuple[Batch, Output]:
    """A sentence with tags drawn by chance, most of them right."""
    random = torch.Generator().manual_seed(row)
    y = torch.randint(5, (length,), generator=random)
    logits = torch.nn.functional.one_hot(y, 5) * 2.0 + torch.randn(length, 5, generator=random)
    select = torch.ones(1, length, dtype=torch.bool)
    return {"y": y, "index": torch.tensor([row]), "count": length, "select": select}, Output(logits, logits)


def test_a_correlation_is_computed_anew_on_each_draw() -> None:
    scores = of_values(60)
    assert scores.is_sum("mse") and not scores.is_sum("pearson")
    y, said = (held.numpy() for held in values(60))
    draws = list(drawn(60, 3))
    for draw, found in zip(draws, scores.on_draws("pearson", draws), strict=True):
        at = np.repeat(np.arange(60), draw.astype(int))
        assert found == pytest.approx(np.corrcoef(said[at], y[at])[0, 1], abs=1e-5)
    assert not is_mean(scores, "pearson", scores.of_each("pearson"), draws)
    assert is_mean(scores, "mse", scores.of_each("mse"), draws)
    assert is_mean(scores, "loss", scores.of_each("loss"), draws)


def test_texts_are_scored_anew_on_each_draw() -> None:
    texts = [("a b c", "a b c"), ("a c", "a b c d"), ("x", "y z"), ("on we go", "on we went")]
    task = make_task(TaskInfo("seq2seq", 9, metrics=["bleu", "wer"]))
    found = Collected(task, final=False)
    logits, y = torch.zeros(1, 9), torch.zeros(1, dtype=torch.int64)
    for row, (text, right) in enumerate(texts):
        batch: Batch = {"index": torch.tensor([row]), "count": 1, "y": y, "prompt": {}, "references": Texts([(right,)])}
        batch["select"] = torch.ones(1, 1, dtype=torch.bool)
        assert found.take(batch, Output(logits, logits, generated=Texts([text])))
    scores, draw = found.scores(), np.array([[2.0, 1.0, 0.0, 1.0]])
    chosen = [texts[0], texts[0], texts[1], texts[3]]
    wanted = jiwer.wer([right for _, right in chosen], [text for text, _ in chosen])
    assert scores.on_draws("wer", draw)[0] == pytest.approx(wanted) and scores.meter_of("bleu") == "bleu"
    assert scores.of_each("wer") == pytest.approx([0.0, 0.5, 1.0, 1 / 3])


def test_an_image_that_is_drawn_twice_counts_twice_in_scores_of_boxes() -> None:
    task = make_task(TaskInfo("object_detection", 1, ["a"]))
    boxes = np.array([[0.0, 0.0, 4.0, 4.0]])
    pictures = [Picture(8, 8, (1.0, 1.0), boxes, np.array([0]), np.array([False])) for _ in range(3)]
    said = [boxes, boxes + 3, boxes + 1]

    def meter(order: list[int]) -> BoxScores:
        made = BoxScores(task.info)
        for number, at in enumerate(order):
            made.update(number, pictures[at], said[at], np.array([0.5 + at / 10]), np.array([0]))
        return made

    parts = [state_of(meter([at])) for at in range(3)]
    scores = Scores(task, np.arange(3), {}, {"boxes": meter([])}, lists={"boxes": [lists for _, lists in parts]})
    scores.starts["boxes"], scores.states["boxes"] = np.zeros(0), np.zeros((3, 0))
    for draw, order in (([2, 0, 1], [0, 0, 2]), ([1, 2, 0], [0, 1, 1]), ([0, 0, 3], [2, 2, 2])):
        wanted = float(meter(order).compute()["map"])
        assert scores.on_draws("map", [np.array(draw, dtype=float)])[0] == pytest.approx(wanted), draw


def test_entities_are_drawn_by_sentence() -> None:
    task = make_task(TaskInfo("token_classification", 5, TAGS))
    sentences = [sentence(row, 3 + row % 5) for row in range(40)]
    found = Collected(task, final=True)
    for batch, output in sentences:
        assert found.take(batch, output)
    scores, draws = found.scores(), list(drawn(40, 3))
    assert scores.meter_of("entity_f1") == "entities" and scores.meter_of("entity_f1/a") == "entities"
    true = [[TAGS[i] for i in batch["y"]] for batch, _ in sentences]
    said = [[TAGS[i] for i in output.logits.argmax(-1)] for _, output in sentences]
    for draw, value in zip(draws, scores.on_draws("entity_f1", draws), strict=True):
        at = np.repeat(np.arange(40), draw.astype(int))
        assert value == pytest.approx(f1_score([true[i] for i in at], [said[i] for i in at]), abs=1e-9)
    assert not is_mean(scores, "loss", scores.of_each("loss"), draws), (
        "words are the items, and sentences differ in length"
    )


def of_groups(seed: int, n: int = 120, right: float = 0.7) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Scores of a network that knew 3 of 5 labels, with true and predicted ones; the samples are the same for each seed."""
    y = np.random.default_rng(0).integers(0, 5, n)
    random = np.random.default_rng(seed)
    said = np.where(random.random(n) < right, y, random.integers(0, 5, n))
    found = Collected(make_task(TaskInfo("classification", 5, list("abcde"), known=3)), final=True)
    logits = torch.nn.functional.one_hot(torch.from_numpy(said), 5).float()
    batch: Batch = {"y": torch.from_numpy(y), "index": torch.arange(n), "count": n, "x": {}}
    assert found.take(batch, Output(logits, logits))
    return found.scores(), y, said


@pytest.mark.parametrize(("metric", "group"), [("accuracy_old", [0, 1, 2]), ("accuracy_new", [3, 4])])
def test_accuracy_on_a_group_of_labels_is_tested_on_its_own_samples(metric: str, group: list[int]) -> None:
    (mine, y, one), (theirs, _, two) = of_groups(1, right=0.9), of_groups(2, right=0.6)
    at = np.isin(y, group)
    gained, lost = int(((one == y) > (two == y))[at].sum()), int(((one == y) < (two == y))[at].sum())
    found = chosen_test.tested(mine, theirs, parse(f"test/{metric} > +0"), 1, 0.05)
    assert (found.n, found.gained, found.lost, found.method) == (at.sum(), gained, lost, "exact McNemar test")
    assert found.p_above == pytest.approx(binomtest(gained, gained + lost, alternative="greater").pvalue)
    assert found.value == pytest.approx((one == y)[at].mean() - (two == y)[at].mean())
    taken = {"accuracy_old": "old_as_new", "accuracy_new": "new_as_old"}[metric]
    crossed = [(np.isin(said, group) == 0)[at] for said in (one, two)]
    less, more = int((crossed[0] < crossed[1]).sum()), int((crossed[0] > crossed[1]).sum())
    wrong = chosen_test.tested(mine, theirs, parse(f"test/{taken} < -0"), -1, 0.05)
    assert wrong.p_above == pytest.approx(binomtest(less, less + more, alternative="greater").pvalue)
    assert wrong.value == pytest.approx(crossed[1].mean() - crossed[0].mean())
    alone = chosen_test.tested(mine, None, parse(f"test/{metric} >= 0.8"), 1, 0.05)
    right = int((one == y)[at].sum())
    assert alone.p_above == pytest.approx(binomtest(right, int(at.sum()), 0.8, alternative="greater").pvalue)


def test_the_harmonic_mean_of_groups_is_computed_anew_on_each_draw() -> None:
    (mine, y, one), (theirs, _, two) = of_groups(1, right=0.9), of_groups(2, right=0.6)
    old, differences = y < 3, []
    for draw in drawn(len(y), 400):
        sides = []
        for said in (one, two):
            a, b = (float(np.average(said[g] == y[g], weights=draw[g])) for g in (old, ~old))
            sides.append(2 * a * b / (a + b))
        differences.append(sides[0] - sides[1])
    found = chosen_test.tested(mine, theirs, parse("test/harmonic >= -0.01"), 1, 0.05)
    assert found.method.startswith("bootstrap") and found.n == len(y)
    draws = mine.on_draws("harmonic", drawn(len(y), 400)) - theirs.on_draws("harmonic", drawn(len(y), 400))
    assert draws == pytest.approx(differences, abs=1e-6)
    assert abs(found.low - np.quantile(differences, 0.05)) < 0.02


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("samples_old", ["samples_old", "neither"]),
        ("accuracy_olds", ["accuracy_old"]),
        ("x/accuracy", ["set"]),
    ],
)
def test_what_the_gate_cannot_require_is_refused_with_the_reason(metric: str, values: list[str]) -> None:
    with refused("--require", *values):
        known(parse(f"test/{metric} >= +0.01"), of_groups(1)[0])


def with_confidence(seed: int, n: int = 200) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Scores of a network of three classes in three batches, with its probabilities and true labels."""
    y = torch.from_numpy(np.random.default_rng(0).integers(0, 3, n))
    logits = torch.nn.functional.one_hot(y, 3) * 1.5 + torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    found = Collected(make_task(TaskInfo("classification", 3, list("abc"))), final=False)
    for part in torch.split(torch.arange(n), 70):
        batch: Batch = {"y": y[part], "index": part, "count": len(part), "x": {}}
        assert found.take(batch, Output(logits[part], logits[part]))
    return found.scores(), logits.softmax(-1).numpy(), y.numpy()


def test_the_brier_score_is_tested_as_a_mean_over_pairs_of_samples() -> None:
    (mine, p, y), (theirs, q, _) = with_confidence(1), with_confidence(2)
    one, two = (((held - np.eye(3)[y]) ** 2).sum(1) for held in (p, q))
    found = chosen_test.tested(mine, theirs, parse("val/brier <= +0.02"), -1, 0.05)
    wanted = ttest_rel(-one, -two - 0.02, alternative="greater")
    assert found.method == "paired t-test" and found.n == len(y)
    assert found.value == pytest.approx(two.mean() - one.mean(), abs=1e-6)
    assert found.p_above == pytest.approx(wanted.pvalue, rel=1e-4)


def test_the_calibration_error_is_that_of_torchmetrics_and_tested_by_its_own_test() -> None:
    (mine, p, y), (theirs, q, _) = with_confidence(1), with_confidence(2)
    values = [
        float(multiclass_calibration_error(torch.from_numpy(held), torch.from_numpy(y), 3, n_bins=15))
        for held in (p, q)
    ]
    assert [s.values["ece"] for s in (mine, theirs)] == pytest.approx(values, abs=1e-6)
    found = chosen_test.tested(mine, theirs, parse("val/ece <= +0.02"), -1, 0.05)
    assert found.method.startswith("bounded bootstrap") and found.value == pytest.approx(
        values[1] - values[0], abs=1e-6
    )
    alone = chosen_test.tested(mine, None, parse("val/ece <= 0.5"), -1, 0.05)
    assert alone.p_above <= 0.05 and alone.value == pytest.approx(-values[0], abs=1e-6)
    with refused("--require", "ece", "probabilities"):
        known(parse("val/ece <= +0.01"), of_values(20))


def test_the_calibration_error_of_few_samples_in_bins_of_their_own_is_not_tested_as_a_mean() -> None:
    (mine, p, y), (theirs, _, _) = with_confidence(9, 12), with_confidence(21, 12)
    one = np.abs(p.max(1) - (p.argmax(1) == y))
    assert mine.values["ece"] == pytest.approx(one.mean(), abs=1e-6), "some samples of the example share a bin"
    found = chosen_test.tested(mine, theirs, parse("val/ece <= +0.5"), -1, 0.05)
    assert found.method.startswith("bounded bootstrap")


def test_groups_of_labels_need_labels_that_were_known() -> None:
    found = Collected(make_task(TaskInfo("classification", 5, list("abcde"))), final=True)
    logits = torch.eye(5)
    found.take({"y": torch.arange(5), "index": torch.arange(5), "count": 5, "x": {}}, Output(logits, logits))
    with refused("--require", "harmonic", "Extend"):
        known(parse("test/harmonic >= -0.01"), found.scores())


def test_a_batch_whose_outputs_cannot_be_told_apart_is_not_taken() -> None:
    found = Collected(make_task(TaskInfo("token_classification", 5, TAGS)), final=False)
    batch, output = sentence(0, 4)
    two = {**batch, "index": torch.tensor([0, 1]), "select": torch.ones(2, 2, dtype=torch.bool)}
    assert not found.take(two, output) and not found.rows


def test_the_workflow_of_the_docs_calls_a_command_that_exists_with_options_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs/gate.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    workflow = yaml.safe_load(block)
    (job,) = workflow["jobs"].values()
    program, command, *arguments = shlex.split(job["steps"][0]["run"])
    assert program == "sft-lightning" and command in COMMANDS
    given = make_parser().parse_args(arguments)
    assert [parse(text).text for text in given.require] == given.require and given.against
    assert f"cat {given.markdown} >>" in job["steps"][1]["run"]
    assert "secrets." not in block and "http" not in block
