"""The reference: the same training and evaluation in a few lines of PyTorch, each optimizer step's samples as one batch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.interface import ALPHA, RATES, TEMPERATURE, WEIGHT, Arm, Measured, Trained, copied
from benchmarks.peers.tiny_tasks import Files


def model_of(task: str, files: Files, dtype: str) -> Any:
    """The folder's model, in evaluation mode."""
    import transformers as hf

    auto = {"classification": hf.AutoModelForSequenceClassification, "causal_lm": hf.AutoModelForCausalLM}[task]
    return auto.from_pretrained(files.model(task), dtype=getattr(torch, dtype)).eval()


def items(model: Any, task: str, samples: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """`logits[N, C]`, `y[N]`: one row a sample, or a supervised token."""
    width = max(len(s["input_ids"]) for s in samples)

    def padded(key: str, fill: int) -> Tensor:
        return torch.tensor([s[key] + [fill] * (width - len(s[key])) for s in samples])

    ids, mask = padded("input_ids", model.config.pad_token_id or 0), padded("attention_mask", 0)
    logits = model(input_ids=ids, attention_mask=mask).logits
    if task == "classification":
        return logits, torch.tensor([s["label"] for s in samples])
    y = padded("labels", -100)[:, 1:]
    return logits[:, :-1][y != -100], y[y != -100]


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """T² KL(teacher ‖ student) of each row."""
    log_p, log_q = (F.log_softmax(x / TEMPERATURE, -1) for x in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(-1) * TEMPERATURE**2


def train(arm: Arm, order: list[list[int]], files: Files) -> Trained:
    """From the folder's weights, one optimizer step for each list of samples."""
    samples = files.samples(arm.task, arm.rows)
    model, teacher = model_of(arm.task, files, arm.dtype), model_of(arm.task, files, arm.dtype)
    begun = copied(model.named_parameters())
    optimizer = getattr(torch.optim, arm.optimizer)(model.parameters(), lr=RATES[arm.optimizer], weight_decay=0.0)
    done = Trained(begun, order)
    for rows in order:
        optimizer.zero_grad()
        logits, y = items(model, arm.task, [samples[r] for r in rows])
        loss = F.cross_entropy(logits, y, reduction="sum") / len(y)
        if arm.loss == "distill":
            with torch.no_grad():
                said, _ = items(teacher, arm.task, [samples[r] for r in rows])
            loss = loss + WEIGHT * kl(logits, said).sum() / len(y)
        if arm.loss == "l2sp":
            drift = [(p - begun[n]).square().sum() for n, p in model.named_parameters() if p.ndim > 1]
            loss = loss + ALPHA / 2 * sum(drift)
        loss.backward()
        done.grads.append(copied((n, p.grad) for n, p in model.named_parameters()))
        optimizer.step()
        done.weights.append(copied(model.named_parameters()))
    return done


@torch.no_grad()
def evaluate(arm: Arm, files: Files) -> Measured:
    """Everything in one batch."""
    samples = files.samples(arm.task, arm.rows)
    logits, y = items(model_of(arm.task, files, arm.dtype), arm.task, samples)
    loss = float(F.cross_entropy(logits, y))
    return Measured(loss, metrics(arm.task, logits.argmax(-1).numpy(), y.numpy()), list(range(arm.rows)))


def metrics(task: str, said: Any, y: Any) -> dict[str, float]:
    """By scikit-learn, on all items."""
    from sklearn.metrics import accuracy_score, f1_score

    accuracy = float(accuracy_score(y, said))
    if task == "classification":
        return {"accuracy": accuracy, "f1_macro": float(f1_score(y, said, average="macro"))}
    return {"token_accuracy": accuracy}
