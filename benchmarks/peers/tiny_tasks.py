"""The tiny models and the data that every peer gets: the same folders, the same samples."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.interface import LABELS
from tests.data.text_files import texts
from tests.networks.tiny import SENTENCES, tiny_folder

SIZES = (1, 5, 21, 37, 48)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Files:
    """Where things are."""

    root: str

    def model(self, task: str, dropout: bool = False) -> str:
        """A transformers folder: BERT for sequence classification or Llama for causal language modelling."""
        return f"{self.root}/{task}{'-dropout' if dropout else ''}"

    def data(self, task: str, rows: int) -> str:
        """A file of JSON lines: text and label, or prompt and completion."""
        return f"{self.root}/{task}-{rows}.jsonl"

    @cache  # noqa: B019
    def samples(self, task: str, rows: int) -> list[dict[str, Any]]:
        """The same as token ids, one dict a sample: with `label`, or with `labels`, -100 where not supervised."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model(task))
        lines = [json.loads(line) for line in Path(self.data(task, rows)).read_text().splitlines()]
        if task == "classification":
            return [{**tokenizer(line["text"]), "label": line["label"]} for line in lines]
        made = []
        for line in lines:
            whole = tokenizer(line["prompt"] + line["completion"] + tokenizer.eos_token)
            ids, prompt = whole["input_ids"], tokenizer(line["prompt"])["input_ids"]
            assert ids[: len(prompt)] == prompt
            labels = [-100] * len(prompt) + ids[len(prompt) :]
            made.append({"input_ids": ids, "attention_mask": whole["attention_mask"], "labels": labels})
        return made

    def row_of(self, task: str, rows: int) -> dict[tuple[int, ...], int]:
        """Which sample has these token ids."""
        found = {tuple(s["input_ids"]): i for i, s in enumerate(self.samples(task, rows))}
        assert len(found) == rows, "two samples look the same"
        return found


def make(root: str) -> Files:
    """Writes models and data into an empty folder. Lengths are uneven, and so are the supervised parts."""
    files = Files(root)
    bert, llama = words(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], True), words(["<pad>", "<s>", "</s>", "<unk>"], False)
    tiny_folder(Path(files.model("classification")), "bert", "sequence", LABELS, bert, **NO_DROPOUT)
    tiny_folder(Path(files.model("classification", dropout=True)), "bert", "sequence", LABELS, bert)
    tiny_folder(Path(files.model("causal_lm")), "llama", "lm", tokenizer=llama)
    for rows in SIZES:
        classified = [{"text": text, "label": i * 7 % LABELS} for i, text in enumerate(texts(rows))]
        write(files.data("classification", rows), classified)
        write(files.data("causal_lm", rows), [conversation(i) for i in range(rows)])
    return files


def double_norms() -> None:
    """Lets Llama's norms compute in double precision in a double-precision model, for all peers alike.

    transformers' own compute in single there, and their gradients' rounding (1e-7, and more after some steps) depends on
    the loss's scale: nothing that a trainer is to answer for. In single precision nothing changes.
    """
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: Any, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(hidden.dtype)

    LlamaRMSNorm.forward = forward


def words(special: list[str], types: bool) -> Any:
    """A token for each word, mark and digit; the special ones are padding, start, end and unknown.

    The trained tokenizers of the tests break ties at random, so that a model's size would differ from run to run.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    found = {piece for text in [*SENTENCES, "more 0123456789"] for piece, _ in split.pre_tokenize_str(text)}
    numbered = {token: i for i, token in enumerate([*special, *sorted(found)])}
    pad, start, end, unknown = special
    tokenizer = Tokenizer(models.WordLevel(numbered, unk_token=unknown))
    tokenizer.pre_tokenizer = split
    template = f"{start} $A {end}" if types else f"{start} $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(start, 1), (end, 2)])
    ends = {"cls_token": start, "sep_token": end} if types else {"bos_token": start, "eos_token": end}
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    names: dict[str, Any] = {"unk_token": unknown, "pad_token": pad, "model_input_names": inputs}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names, **ends)


def conversation(i: int) -> dict[str, str]:
    """A question of some length and an answer of 1 to 10 words."""
    question, answer = SENTENCES[i % 6].split()[: 1 + i % 5], (SENTENCES[(i * 3 + 1) % 6] * 2).split()[: 1 + i * 7 % 10]
    return {"prompt": f"{' '.join(question)} {i}\n", "completion": " ".join(answer)}


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
