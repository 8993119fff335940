"""transformers.Trainer under test: its defaults, and its own ways round what they get wrong."""

import os
import signal
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.interface import (
    ALPHA,
    BATCH,
    EVAL_BATCH,
    RATES,
    STEPS,
    TEMPERATURE,
    WEIGHT,
    Arm,
    Measured,
    Stoppable,
    Trained,
    Weights,
    copied,
)
from benchmarks.peers.plain import metrics, model_of
from benchmarks.peers.tiny_tasks import Files

name = "HF Trainer"
gathers = True
KWARGS, FUNCTION, EVEN = (
    "model.accepts_loss_kwargs = False",
    "compute_loss_func, ÷ num_items_in_batch",
    "even_batches=False",
)
SETTINGS = {
    "classification": ["default", KWARGS, FUNCTION, f"{FUNCTION}; {EVEN}"],
    "causal_lm": ["default", EVEN],
    "evaluation of classification": ["default", KWARGS],
    "evaluation of causal_lm": ["default"],
    "distill": [
        "compute_loss override, means",
        "… and loss_is_scaled_for_ga = False",
        "compute_loss override, ÷ num_items_in_batch",
        "… and × accelerator.num_processes",
        "compute_loss_func, mean",
        FUNCTION,
    ],
    "l2sp": ["penalty in compute_loss", "… ÷ current_gradient_accumulation_steps"],
    "seeds": ["default", "model_init"],
    "resume": ["default"],
}


def versions() -> dict[str, str]:
    return {package: version(package) for package in ("transformers", "accelerate", "torch")}


def why(family: str, setting: str, arm: Arm) -> str:
    """From the source and the documentation of the versions that were run (transformers 5.23, accelerate 1.15)."""
    said = []
    if family in ("classification", "evaluation") and setting == "default" and arm.task == "classification":
        said.append(
            "BertForSequenceClassification takes **kwargs, so Trainer leaves the scaling to the model, whose loss is a mean "
            "that ignores num_items_in_batch (transformers#47688)"
        )
    if family == "classification" and setting == KWARGS and arm.rows % BATCH:
        said.append("a mean of micro-batch means, which are not of one size")
    if family == "evaluation" and arm.task == "causal_lm":
        said.append("eval_loss averages the batches' token means over samples, not over tokens")
    if arm.processes > 1 and family != "evaluation" and arm.rows % (arm.micro * arm.processes):
        said.append(
            "processes have different numbers of batches, and what follows is out of step"
            if EVEN in setting
            else "documented: even_batches repeats samples so that processes have the same number of batches"
        )
    if family == "evaluation" and arm.processes > 1:
        said.append("repeated samples are cut off the predictions, but are in the batch means that make eval_loss")
    if setting == "compute_loss override, means":
        said.append("documented: a loss of one's own must set loss_is_scaled_for_ga")
    if setting == "… and loss_is_scaled_for_ga = False":
        said.append("a mean of micro-batch means, which have different numbers of tokens")
    if setting == "compute_loss override, ÷ num_items_in_batch":
        said.append("num_items_in_batch counts all processes' items, and DDP averages over processes")
    if setting == "compute_loss_func, mean":
        said.append("documented: the function is to use the number of items of the whole accumulated batch")
    if setting == "penalty in compute_loss":
        said.append("the penalty is added once for each micro-batch")
    if family == "seeds" and setting == "default":
        said.append("documented: use model_init; the model is made before Trainer seeds anything")
    return "; ".join(said)


# ---- losses as users write them ----


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """T² KL(teacher ‖ student) of each token, as in the Trainer recipes for distillation."""
    said, wanted = F.log_softmax(student / TEMPERATURE, -1), F.log_softmax(teacher / TEMPERATURE, -1)
    return F.kl_div(said, wanted, reduction="none", log_target=True).sum(-1) * TEMPERATURE**2


def make_trainers() -> dict[str, type]:
    """Trainer's subclasses, by setting: the common ways to write an anchored loss. (Importing Trainer takes seconds.)"""
    from transformers import Trainer

    class Distil(Trainer):
        """The usual override of compute_loss: the model's own mean loss, plus a mean over the batch's tokens."""

        teacher: Any = None

        def tokens(self, outputs: Any, inputs: Any) -> Tensor:
            """The distance of each supervised token."""
            with torch.no_grad():
                teacher = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            keep = inputs["labels"][:, 1:] != -100
            return kl(outputs.logits[:, :-1][keep], teacher.logits[:, :-1][keep])

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(**inputs)
            loss = outputs.loss + WEIGHT * self.tokens(outputs, inputs).mean()
            return (loss, outputs) if return_outputs else loss

    class DistilUnscaled(Distil):
        """The same, and told that the loss is a mean per batch."""

        loss_is_scaled_for_ga = False

    class DistilItems(Distil):
        """A sum over tokens by the number of items that Trainer hands over."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
            loss = outputs.loss + WEIGHT * self.tokens(outputs, inputs).sum() / num_items_in_batch
            return (loss, outputs) if return_outputs else loss

    class DistilItemsRanks(DistilItems):
        """The same, times the number of processes, as Trainer's own compute_loss does."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            ranks = self.accelerator.num_processes
            return (found[0] * ranks, found[1]) if return_outputs else found * ranks

    class DistilFunction(Distil):
        """compute_loss_func for the loss; compute_loss only asks the teacher first."""

        by_items = True

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(compute_loss_func=self.function, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                asked = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
                self.said = self.teacher(**asked).logits
            return super(Distil, self).compute_loss(model, inputs, *args, **kwargs)

        def function(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            keep = labels[:, 1:] != -100
            mine, theirs = outputs.logits[:, :-1][keep], self.said[:, :-1][keep]
            task = F.cross_entropy(mine, labels[:, 1:][keep], reduction="sum")
            return (task + WEIGHT * kl(mine, theirs).sum()) / (num_items_in_batch if self.by_items else len(mine))

    class DistilFunctionMean(DistilFunction):
        """The same with a mean over the batch's tokens, the number handed over unused."""

        by_items = False

    class L2SP(Trainer):
        """The penalty added to what compute_loss gives."""

        by_steps = False

        def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, *args, **kwargs)
            if not hasattr(self, "begun"):
                self.begun = {n: p.detach().clone() for n, p in self.model.named_parameters()}
            drift = [(p - self.begun[n]).square().sum() for n, p in self.model.named_parameters() if p.ndim > 1]
            return loss + ALPHA / 2 * sum(drift) / (self.current_gradient_accumulation_steps if self.by_steps else 1)

    class L2SPBySteps(L2SP):
        """The same, shared out over the micro-batches of a step."""

        by_steps = True

    return {
        "compute_loss override, means": Distil,
        "… and loss_is_scaled_for_ga = False": DistilUnscaled,
        "compute_loss override, ÷ num_items_in_batch": DistilItems,
        "… and × accelerator.num_processes": DistilItemsRanks,
        "compute_loss_func, mean": DistilFunctionMean,
        FUNCTION: DistilFunction,
        "penalty in compute_loss": L2SP,
        "… ÷ current_gradient_accumulation_steps": L2SPBySteps,
    }


def by_items(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A compute_loss_func for classification, as the documentation asks for."""
    loss = F.cross_entropy(outputs.logits, labels, reduction="sum")
    return loss / (num_items_in_batch if num_items_in_batch is not None else len(labels))


# ---- Trainer, set up ----


def trainer_of(arm: Arm, files: Files, model: Any, folder: str, callbacks: list[Any], **settings: Any) -> Any:
    """A Trainer with its documented defaults, but for what an arm fixes: lr, no clipping, no schedule, no logging."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    given: dict[str, Any] = {
        "per_device_train_batch_size": arm.micro,
        "per_device_eval_batch_size": EVAL_BATCH,
        "gradient_accumulation_steps": arm.accumulate,
        "max_steps": STEPS,
        "learning_rate": RATES[arm.optimizer],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "seed": arm.seed,
        "save_strategy": "no",
    }
    if arm.optimizer == "SGD":
        given["optim"] = "sgd"  # else the default, AdamW
    if arm.processes > 1:
        given["ddp_backend"] = "gloo"
    if EVEN in arm.setting:
        given["accelerator_config"] = {"even_batches": False}
    quiet = {"use_cpu": True, "report_to": "none", "logging_strategy": "no", "disable_tqdm": True}
    tokenizer = AutoTokenizer.from_pretrained(files.model(arm.task))
    about: dict[str, Any] = {"processing_class": tokenizer}
    if arm.task == "causal_lm":
        about["data_collator"] = DataCollatorForSeq2Seq(tokenizer)  # pads labels too
    if FUNCTION in arm.setting and arm.loss == "plain":
        about["compute_loss_func"] = by_items
    if KWARGS in arm.setting:
        model.accepts_loss_kwargs = False
    samples = files.samples(arm.task, arm.rows)
    cls = make_trainers().get(arm.setting, Trainer) if arm.loss != "plain" else Trainer
    source = {"model_init": model} if callable(model) and not isinstance(model, torch.nn.Module) else {"model": model}
    evaluation = {k: settings.pop(k) for k in ("compute_metrics",) if k in settings}
    arguments = TrainingArguments(output_dir=folder, **quiet, **{**given, **settings})
    made = cls(
        args=arguments,
        train_dataset=samples,
        eval_dataset=samples,
        callbacks=callbacks,
        **source,
        **about,
        **evaluation,
    )
    if arm.loss == "distill":
        made.teacher = model_of(arm.task, files, arm.dtype)
    return made


def recorder(done: Trained, arm: Arm, files: Files) -> Any:
    """A callback that fills `done`."""
    from transformers import TrainerCallback

    known = files.row_of(arm.task, arm.rows)
    pending: list[int] = []

    class Recorder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            done.start = copied(model.named_parameters())
            model.register_forward_pre_hook(self.see, with_kwargs=True)

        def see(self, model: Any, args: Any, kwargs: Any) -> None:
            for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
                pending.append(known[tuple(ids[mask.bool()].tolist())])

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            done.rows.append(list(pending))
            pending.clear()
            done.grads.append(copied((n, p.grad) for n, p in model.named_parameters()))

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            done.weights.append(copied(model.named_parameters()))

    return Recorder()


def train(arm: Arm, files: Files) -> Trained:
    done = Trained({})
    model = model_of(arm.task, files, arm.dtype)
    trainer_of(arm, files, model, f"{files.root}/hf", [recorder(done, arm, files)]).train()
    return done


def evaluate(arm: Arm, files: Files) -> Measured:
    known, seen = files.row_of(arm.task, arm.rows), []

    def compute_metrics(predicted: Any) -> dict[str, float]:
        """As users write it: on all predictions together."""
        said, y = predicted.predictions.argmax(-1), predicted.label_ids
        seen.extend(known.get(ids_of(row), -1) for row in predicted.inputs)
        if arm.task == "causal_lm":
            said, y = said[:, :-1], y[:, 1:]
            said, y = said[y != -100], y[y != -100]
        return metrics(arm.task, said, y)

    asked: dict[str, Any] = {"include_for_metrics": ["inputs"], "compute_metrics": compute_metrics}
    trainer = trainer_of(arm, files, model_of(arm.task, files, arm.dtype), f"{files.root}/hf", [], **asked)
    said = trainer.evaluate()
    found = {k.removeprefix("eval_"): float(v) for k, v in said.items()}
    ours = {k: v for k, v in found.items() if k in ("accuracy", "f1_macro", "token_accuracy")}
    return Measured(found["loss"], ours, seen)


def ids_of(row: Any) -> tuple[int, ...]:
    """Token ids without padding: [PAD] and <pad> are 0, and -100 is where batches of different width came together."""
    ids = [int(i) for i in row if i != -100]
    while ids and ids[-1] == 0:
        ids.pop()
    return tuple(ids)


# ---- seeds ----


def seeded(setting: str, seed: int, files: Files) -> Trained:
    """A head of more classes than the folder's is new. 'model_init' is what the documentation recommends."""
    from transformers import AutoModelForSequenceClassification

    def fresh() -> Any:
        folder = files.model("classification", dropout=True)
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=4, ignore_mismatched_sizes=True)

    arm, done = Arm("classification", 37, setting, dtype="float32", optimizer="AdamW", seed=seed), Trained({})
    model = fresh if setting == "model_init" else fresh()
    trainer_of(arm, files, model, f"{files.root}/hf", [recorder(done, arm, files)]).train()
    return done


# ---- stopping and going on ----


def stoppable(how: Stoppable, files: Files) -> Weights:
    """With a checkpoint at the step where it is killed, and train(resume_from_checkpoint=True) in a new process."""
    from transformers import AutoModelForSequenceClassification, TrainerCallback

    class Kill(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if how.part == "first" and state.global_step == how.stop:
                os.kill(os.getpid(), signal.SIGKILL)

    arm = Arm("classification", how.rows, how.setting, dtype="float32", accumulate=how.accumulate, optimizer="AdamW")
    settings = {
        "per_device_train_batch_size": how.batch // how.accumulate,
        "max_steps": -1,
        "num_train_epochs": how.epochs,
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
        "save_steps": how.stop,
        "dataloader_num_workers": how.workers,
    }
    model = AutoModelForSequenceClassification.from_pretrained(files.model("classification", dropout=True))
    trainer = trainer_of(arm, files, model, how.folder, [Kill()], **settings)
    trainer.train(resume_from_checkpoint=True if how.part == "second" else None)
    if how.part == "first":
        raise RuntimeError("it was not stopped")
    return copied(trainer.model.named_parameters())
