"""A classifier of BERT-base's shape on texts of random lengths, ours beside Hugging Face Trainer: for `benchmarks.gpu`."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench.stopwatch import Sizes, Stopwatch, attempt, fit
from sft_lightning.data import TextTable
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT, SFTModule
from sft_lightning.networks import spec

VARIANTS: dict[str, tuple[type[SFTModule], dict[str, Any], dict[str, Any]]] = {
    "ours, dynamic padding": (PlainSFT, {}, {"group_by_length": False}),
    "ours, grouped by length": (PlainSFT, {}, {}),
    "ours, grouped, compiled": (PlainSFT, {"compile": True}, {}),
    "ours, L2-SP in the loss": (L2SPSFT, {"alpha": 0.01, "beta": 0.0}, {}),
    "ours, L2-SP decoupled": (L2SPSFT, {"how": "decoupled", "decoupled_weight": 0.3}, {}),
    "ours, distillation of features": (DistillSFT, {"on": "features"}, {}),
}


def write_text(sizes: Sizes, place: Path) -> Path:
    """A network with a tokenizer, and texts of two classes. Returns the network's folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    draw, special = random.Random(0), ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [f"w{n}" for n in range(sizes.vocabulary - len(special))]
    pieces = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*special, *words])}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = place / "bert"
    PreTrainedTokenizerFast(tokenizer_object=pieces, **named).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=sizes.layers,
        num_attention_heads=max(1, sizes.width // 64), intermediate_size=4 * sizes.width, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    for name, count in (("train", 8 * sizes.batch), ("val", sizes.batch)):
        rows = (
            {"text": " ".join(draw.choices(words, k=draw.randint(4, sizes.longest - 2))), "label": str(n % 2)}
            for n in range(count)
        )
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def of_texts(sizes: Sizes, place: Path, found: dict[str, Any]) -> None:
    folder = write_text(sizes, place)
    network = spec("TransformersText", pretrained=str(folder), pooling="mean", max_length=sizes.longest, dropout=0.0)
    files = {"train": str(place / "train.jsonl"), "val": str(place / "val.jsonl"), "labels": ["0", "1"]}
    for name, (variant, settings, of_data) in VARIANTS.items():
        data = TextTable(**files, batch_size=sizes.batch, seed=0, **of_data)
        attempt(found, name, lambda v=variant, s=settings, d=data: fit(v(network, lr=5e-5, **s), d, sizes, place))
    for name, grouped in (("Hugging Face Trainer", False), ("Hugging Face Trainer, grouped by length", True)):
        attempt(found, name, lambda g=grouped: by_trainer(sizes, place, folder, g))


def by_trainer(sizes: Sizes, place: Path, folder: Path, grouped: bool) -> dict[str, float | None]:
    """The same network, texts and precision with Hugging Face Trainer, whose AdamW is fused too."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers import Trainer as Theirs

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    samples = [
        {
            "input_ids": tokenizer(r["text"], truncation=True, max_length=sizes.longest)["input_ids"],
            "labels": int(r["label"]),
        }
        for r in rows
    ]
    watch = Stopwatch(sizes.warm, sizes.steps)
    pad = DataCollatorWithPadding(tokenizer)

    def collate(batch: list[dict[str, Any]]) -> Any:
        if watch.begun and not watch.ended:
            watch.samples += len(batch)
            watch.tokens += sum(len(sample["input_ids"]) for sample in batch)
        return pad(batch)

    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            watch.on_train_batch_end(state)
            control.should_training_stop = bool(watch.ended)
            return control

    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(place / "hf"), per_device_train_batch_size=sizes.batch, learning_rate=5e-5, bf16=True,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, num_train_epochs=1000, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=not gpu, remove_unused_columns=False, logging_steps=50,
        **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    Theirs(model, arguments, data_collator=collate, train_dataset=samples, callbacks=[Ends()]).train()  # type: ignore[arg-type]
    named = model.named_parameters()
    weights = sum(p.numel() for name, p in named if "embedding" not in name and "classifier" not in name)
    return {**watch.found(weights), "waits_for_data": None}  # not measured: its loop has no hook there
