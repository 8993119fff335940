"""Metrics as the library gives them, and as scikit-learn and scipy do on one sample at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from scipy.special import expit, log_softmax
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn import metrics as sk
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor, WritePredictions
from sft_lightning.data import PlainText, SFTDataModule
from sft_lightning.data.text.documents import Blocks
from sft_lightning.modules import SFTModule
from sft_lightning.networks import Network
from sft_lightning.tasks import TASKS
from sft_lightning.tasks.box_scores import Picture
from sft_lightning.tasks.next_token import NextToken
from sft_lightning.tasks.object_detection import FIXED
from sft_lightning.tasks.texts import TEXT_METRICS
from tests.exactness.cases import CASES, MOST_CHOICES, OLD_TAGS, TAGS, make
from tests.exactness.training import displace, real_rows
from tests.support import fit, quiet_trainer
from tests.tasks import boxes_by_hand, ctc_by_hand, squad_by_hand
from tests.tasks.test_token_classification import by_hand as entities_by_hand

# ---- as the library has it ----


class Seen(Callback):
    """Row numbers of the samples that were measured on this rank, fillers left out."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.rows += real_rows(batch)

    on_test_batch_end = on_validation_batch_end


def metrics_of(case: str, data: SFTDataModule) -> list[str]:
    """All metrics that the task has for this data, for which no texts are generated."""
    names = of_outputs(CASES[case].task)
    two, counts_bytes = len(getattr(data, "labels", [])) == 2, isinstance(data, PlainText)
    return [n for n in names if {"f1": two, "bits_per_byte": counts_bytes}.get(n, True)]


def of_outputs(task: str) -> list[str]:
    """A task's metrics without those of generated texts, which tests/tasks/test_texts.py compares with their libraries."""
    generated = TEXT_METRICS if issubclass(TASKS[task], NextToken) else ()
    return [name for name in TASKS[task].metrics if name not in generated]


def samples(case: str, rows: int) -> SFTDataModule:
    """`rows` to validate and as many to test, 4 a batch: ragged, and with two processes uneven."""
    data = CASES[case].data(sizes=(8, rows, rows), batch_size=8, eval_batch_size=4)
    data.metrics = metrics_of(case, data)
    return data


def source_samples(case: str, rows: int) -> SFTDataModule | None:
    source = CASES[case].source
    return None if source is None else source(sizes=(8, rows, rows), batch_size=8, eval_batch_size=4)


def moved_module(case: str, root: Path, data: SFTDataModule) -> SFTModule:
    """A student away from its teacher, the same each time."""
    data.setup()
    assert data.task_info is not None
    module = make(case, "plain", root, task=data.task_info.to_dict(), lr=0.0)
    torch.manual_seed(0)
    module.configure_model()
    displace(module)
    return module


def measure(case: str, rows: int, root: Path, how: str, drift_rows: int = 1024, **settings: Any) -> dict[str, Any]:
    """`metrics` and `rows` seen of `trainer.validate`, `trainer.test` or the validation in a fit that moves nothing; or
    `predictions`.
    """
    data, source, seen = samples(case, rows), source_samples(case, rows), Seen()
    module = moved_module(case, root, data)
    callbacks = [seen, RetentionMonitor(source, drift_rows)]
    if how == "predict":
        path = root / f"{case}-{rows}-{settings.get('devices', 1)}.jsonl"
        trainer = quiet_trainer(callbacks=[WritePredictions(path)], precision="64-true", **settings)
        trainer.predict(module, data, return_predictions=False)
        return {"predictions": path.read_text() if trainer.is_global_zero else ""}
    if how == "fit":
        trainer = fit(module, data, max_epochs=1, callbacks=callbacks, precision="64-true", **settings)
        values = dict(trainer.callback_metrics)
    else:
        trainer = quiet_trainer(callbacks=callbacks, precision="64-true", **settings)
        (values,) = (trainer.test if how == "test" else trainer.validate)(module, data, verbose=False)
    return {"metrics": {k: float(v) for k, v in values.items()}, "rows": seen.rows}


def limited(case: str, root: Path, how: str, limit: float, **settings: Any) -> dict[str, Any]:
    """As `measure` of 21 samples, of which a limit draws some; student and teacher are compared on 3 of them."""
    limits = {"limit_val_batches": limit, "limit_test_batches": limit}
    return measure(case, 21, root, how, drift_rows=3, **limits, **settings)


# ---- as the field has it ----

Reference = Callable[[np.ndarray, np.ndarray], float]


def _said(metric: Callable[..., float], **arguments: Any) -> Reference:
    return lambda logits, y: float(metric(y, logits.argmax(1), **arguments))


def _value(metric: Callable[..., float], **arguments: Any) -> Reference:
    return lambda logits, y: float(metric(y.reshape(logits.shape), logits, **arguments))


def _determination(logits: np.ndarray, y: np.ndarray) -> float:
    """NaN where scikit-learn makes a value up."""
    return _value(sk.r2_score, force_finite=False)(logits, y) if len(y) > 1 else math.nan


def _correlation(metric: Callable[..., Any]) -> Reference:
    """The mean over numbers; NaN for fewer than two items, where scipy is silent or refuses."""

    def mean(logits: np.ndarray, y: np.ndarray) -> float:
        pairs = zip(y.reshape(logits.shape).T, logits.T, strict=True)
        return float(np.mean([metric(*pair).statistic for pair in pairs])) if len(y) > 1 else math.nan

    return mean


def nats(logits: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's log loss, or scipy's where a probability is below what scikit-learn clips to."""
    log_p = log_softmax(logits, axis=1)
    value = float(-log_p[np.arange(len(y)), y].mean())
    if log_p.min() > -30:
        p = np.exp(log_p)
        assert np.isclose(value, sk.log_loss(y, p / p.sum(1, keepdims=True), labels=range(p.shape[1])), rtol=1e-12)
    return value


def calibration_error(logits: np.ndarray, y: np.ndarray) -> float:
    """|accuracy − confidence| of 15 bins [i/15, (i + 1)/15), and of confidences of exactly 1, weighted by their items."""
    p = np.exp(log_softmax(logits, axis=1)).astype(np.float32)
    sure, right = p.max(1), p.argmax(1) == y
    bins = np.searchsorted(np.linspace(0, 1, 16, dtype=np.float32), sure, side="right")
    return float(sum(abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in set(bins)))


def brier(logits: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's, which halves it for two classes in some versions, written out."""
    p = np.exp(log_softmax(logits, axis=1))
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean())


def mean_average_precision(logits: np.ndarray, y: np.ndarray) -> float:
    """Over the labels that an item has."""
    there = np.flatnonzero(y.any(0))
    if not len(there):
        return math.nan
    return float(sk.average_precision_score(y[:, there], logits[:, there], average="macro"))


def _by_question(logits: np.ndarray, y: np.ndarray) -> float:
    raise NotImplementedError("`squad_by_hand` and the like need the questions, transcripts or images too")


OF_TOKENS: dict[str, Reference] = {
    "loss": nats,
    "perplexity": lambda logits, y: math.exp(nats(logits, y)),
    "token_accuracy": _said(sk.accuracy_score),
}
REFERENCES: dict[str, dict[str, Reference]] = {
    "classification": {
        "loss": nats,
        "accuracy": _said(sk.accuracy_score),
        "f1": _said(sk.f1_score, zero_division=0.0),
        "f1_macro": _said(sk.f1_score, average="macro", zero_division=0.0),
        "matthews": _said(sk.matthews_corrcoef),
        "ece": calibration_error,
        "brier": brier,
    },
    "regression": {
        "loss": lambda logits, y: logits.shape[1] * sk.mean_squared_error(y.reshape(logits.shape), logits),
        "r2": _determination,
        "mse": _value(sk.mean_squared_error),
        "mae": _value(sk.mean_absolute_error),
        "pearson": _correlation(pearsonr),
        "spearman": _correlation(spearmanr),
    },
    "causal_lm": OF_TOKENS,
    "seq2seq": OF_TOKENS,
    "token_classification": {
        "loss": nats,
        "token_accuracy": _said(sk.accuracy_score),
        "f1_macro": _said(sk.f1_score, average="macro", zero_division=0.0),
    },
    "extractive_qa": dict.fromkeys(
        ("loss", "f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_accuracy"), _by_question
    ),
    "ctc": dict.fromkeys(("loss", "wer", "cer", "wer_plain", "cer_plain"), _by_question),
    "object_detection": dict.fromkeys(("loss", "map", "map50", "map75", "mar100"), _by_question),
    "multi_label": {  # all labels of all items
        "loss": lambda logits, y: sk.log_loss(y.ravel(), expit(logits).ravel(), labels=[0, 1]) * y.shape[1],
        "label_accuracy": lambda logits, y: sk.accuracy_score(y.ravel(), logits.ravel() > 0),
        "exact_match": lambda logits, y: sk.accuracy_score(y, logits > 0),
        "f1_micro": lambda logits, y: sk.f1_score(y, logits > 0, average="micro", zero_division=0.0),
        "f1_macro": lambda logits, y: sk.f1_score(y, logits > 0, average="macro", zero_division=0.0),
        "f1_samples": lambda logits, y: sk.f1_score(y, logits > 0, average="samples", zero_division=1.0),
        "map": mean_average_precision,
    },
    "multiple_choice": {"loss": nats, "accuracy": _said(sk.accuracy_score)},
    "semantic_segmentation": {  # scikit-learn's means are over the classes that are true or predicted
        "loss": nats,
        "miou": _said(sk.jaccard_score, average="macro", zero_division=0.0),
        "dice": _said(sk.f1_score, average="macro", zero_division=0.0),
        "pixel_accuracy": _said(sk.accuracy_score),
    },
}
"""Task to metric to reference: each takes all logits and targets at once."""


@dataclass
class Answers:
    """What a network says to a split, one sample at a time."""

    logits: np.ndarray
    features: np.ndarray
    source_logits: np.ndarray | None
    y: np.ndarray
    row_of_item: list[int]
    bytes: int = 0
    """UTF-8 bytes of plain text"""
    beside: list[Any] = field(default_factory=list)
    """What the task reads on the host of each item; then the logits of an item are a list of its windows'"""


@torch.no_grad()
def one_by_one(network: Network, data: SFTDataModule, split: str) -> Answers:
    """Asks in evaluation mode and double precision."""
    was, parts = network.training, []
    network.eval()
    dtype = next(network.parameters()).dtype
    rows: list[int] = []
    beside: list[Any] = []
    for position in range(len(data.splits[split])):
        batch = data.device_transform(data.splits[split][position])
        x = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch["x"].items()}
        output = network(x, None if data.task_name == "object_detection" else batch.get("select"))
        if data.task_name == "multiple_choice":
            output = output._replace(logits=of_one(output.logits), source_logits=of_one(output.source_logits))
        if output.reader is not None:
            output = in_boxes(output, batch)
        parts.append((output, batch["y"]))
        beside += batch.get("beside", ())
        rows += batch["index"].tolist() * len(batch["y"])
    network.train(was)

    def joined(name: str) -> np.ndarray:
        if data.task_name == "object_detection":
            return of_images([getattr(output, name) for output, _ in parts], whole=name != "features")
        if data.task_name == "ctc" and name != "features":
            return in_sounds([getattr(output, name).double().numpy() for output, _ in parts])
        if beside and name != "features":
            return in_windows([getattr(output, name).double().numpy() for output, _ in parts], beside)
        return torch.cat([getattr(output, name) for output, _ in parts]).double().numpy()

    samples = data.splits[split].samples
    texts = samples.documents.texts if isinstance(samples, Blocks) else []
    return Answers(
        joined("logits"),
        joined("features"),
        joined("source_logits") if parts[0][0].source_logits is not None else None,
        torch.cat([y if data.task_name != "object_detection" else y[:, 0] for _, y in parts]).double().numpy(),
        rows,
        sum(len(text.encode()) for text in texts),
        beside,
    )


def of_one(scores: Tensor | None) -> Tensor | None:
    """The scores of a question's choices as one row; choices that it lacks are impossible."""
    return None if scores is None else F.pad(scores.T, (0, MOST_CHOICES - len(scores)), value=-1e30)


def in_boxes(output: Any, batch: Any) -> Any:
    """The output of one image, with what each head says of it."""
    said: list[Any] = []
    for logits in (output.logits, output.source_logits):
        if logits is None:
            said.append(None)
            continue
        ((boxes, scores, labels),) = output.reader.detections(logits)
        rows, numbers = output.reader.rows(logits)[0].double().numpy(), batch["y"][0]
        target = numbers[numbers[:, 4] >= 0]
        loss = output.reader.losses(logits, [(target[:, :4].to(logits.dtype) / FIXED, target[:, 4])])
        said.append(boxes_by_hand.Detected(rows, *(t.double().numpy() for t in (boxes, scores, labels)), float(loss)))
    return output._replace(logits=said[0], source_logits=said[1], features=output.features.flatten(0, 1))


def of_images(parts: Sequence[Any], whole: bool) -> np.ndarray:
    """`[N]` what is said of each image, or the features of all their places."""
    if not whole:
        return torch.cat(list(parts)).double().numpy()
    found = np.empty(len(parts), dtype=object)
    found[:] = list(parts)
    return found


def in_sounds(logits: Sequence[np.ndarray]) -> np.ndarray:
    """`[N]` each sound's logits of its frames."""
    found = np.empty(len(logits), dtype=object)
    found[:] = list(logits)
    return found


def in_windows(logits: Sequence[np.ndarray], asked: Sequence[Any]) -> np.ndarray:
    """`[N]` lists of windows, from each question's scores of all its tokens."""
    found = np.empty(len(asked), dtype=object)
    for number, (scores, question) in enumerate(zip(logits, asked, strict=True)):
        found[number] = np.split(scores, np.cumsum([len(places) for places in question.places])[:-1])
    return found


def reference(task: str, names: list[str], answers: Answers, of_source: bool = False) -> dict[str, float]:
    """The loss and these metrics."""
    logits = answers.source_logits if of_source else answers.logits
    assert logits is not None
    y = answers.y if task == "regression" else answers.y.astype(np.int64)
    if task == "extractive_qa":
        values = squad_by_hand.measure(logits, y, answers.beside, may_be_none=True)
        return {n: values[n] for n in ("loss", *names)}
    if task == "ctc":
        values = ctc_by_hand.measure(logits, y, answers.beside)
        return {n: values[n] for n in ("loss", *names)}
    if task == "object_detection":
        values = boxes_by_hand.measure(logits, answers.beside)
        return {n: values[n] for n in ("loss", *names)}
    rows = np.array(answers.row_of_item)
    sentences = [(logits[rows == row].argmax(1), y[rows == row]) for row in dict.fromkeys(answers.row_of_item)]
    of_entities = entity_scores(sentences, OLD_TAGS if of_source else TAGS) if task == "token_classification" else {}
    own = {
        **of_entities,
        **({"bits_per_byte": nats(logits, y) * len(y) / math.log(2) / answers.bytes} if answers.bytes else {}),
    }
    return {n: own[n] if n in own else REFERENCES[task][n](logits, y) for n in ("loss", *names)}


def entity_scores(sentences: list[tuple[np.ndarray, np.ndarray]], tags: Sequence[str]) -> dict[str, float]:
    """Micro-averages over sentences, each as (said, true) numbers of its words."""
    pairs = [[entities_by_hand([tags[i] for i in numbers]) for numbers in sentence] for sentence in sentences]
    right = sum(len(mine & theirs) for mine, theirs in pairs)
    said, true = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    precision, recall = right / max(said, 1), right / max(true, 1)
    f1 = 2 * right / max(said + true, 1)
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1, **strict_scores(sentences, tags)}


def strict_scores(sentences: list[tuple[np.ndarray, np.ndarray]], tags: Sequence[str]) -> dict[str, float]:
    """seqeval's own, of all sentences at once."""
    said, true = ([[tags[int(i)] for i in pair[which]] for pair in sentences] for which in (0, 1))
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    return {
        f"entity_{name}_strict": float(of(true, said, mode="strict", scheme=IOB2, zero_division=0))
        if sentences
        else 0.0
        for name, of in scores.items()
    }


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimate of Song et al. 2012, eq. 5, of two kernels without their diagonals, times n(n − 3)."""
    n = len(k)
    if n < 4:
        return math.nan
    return float((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0))


def drift(student: Answers, teacher: Answers, shares_outputs: bool, of_labels: bool = False) -> dict[str, float]:
    """The gauges of drift, in numpy; `of_labels`: whether the source head gives a yes or no for each label."""
    centred = [a.features - a.features.mean(0) for a in (student, teacher)]
    one, other = (c @ c.T for c in centred)
    n, features = len(one), [a.features for a in (student, teacher)]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {"drift/features_cka": float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))}
        k, m = (f @ f.T * (1 - np.eye(n)) for f in features)
        own = np.sqrt(np.float64(hsic(k, k)) * np.float64(hsic(m, m)))
        values["drift/features_cka_debiased"] = float(hsic(k, m) / own) if n > 3 else math.nan
    mine, theirs = (a.logits if shares_outputs else a.source_logits for a in (student, teacher))
    if mine is not None and theirs is not None and of_labels:
        p, q = expit(theirs), expit(mine)
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        values["drift/kl"] = float(kl.sum(1).mean())
        values["retention/agreement"] = float(((mine > 0) == (theirs > 0)).mean())
    elif mine is not None and theirs is not None and student.beside:
        pairs = list(zip(mine, theirs, strict=True))
        kinds: dict[type, Any] = {str: ctc_by_hand, Picture: boxes_by_hand}
        by_hand = kinds.get(type(student.beside[0]), squad_by_hand)
        values["drift/kl"] = float(np.mean([by_hand.divergence(*pair) for pair in pairs]))
        values["retention/agreement"] = float(np.mean([by_hand.agreement(*pair) for pair in pairs]))
    elif mine is not None and theirs is not None:
        log_s, log_t = log_softmax(mine, axis=1), log_softmax(theirs, axis=1)
        values["drift/kl"] = float((np.exp(log_t) * (log_t - log_s)).sum(1).mean())
        values["retention/agreement"] = float((mine.argmax(1) == theirs.argmax(1)).mean())
    return values
