"""Batches of texts, for each family of tokenizers: padding moves nothing, labels are the completion and its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft_lightning.core.structures import Batch, TaskInfo
from sft_lightning.data import Instructions
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table
from sft_lightning.networks import Network, TransformersLM, TransformersText
from sft_lightning.tasks import make_task
from tests.cover import covering
from tests.exactness import figures
from tests.exactness.cases import FewTexts, few_texts
from tests.exactness.tokenizers import BEGINS, FAMILIES, tokenizer
from tests.exactness.training import Tensors, error
from tests.networks.tiny import MISTRAL, tiny_folder
from tests.refused import refused
from tests.support import settle

SIDES = ("right", "left")
PAIRS = [
    ("What is the capital of France?", "Paris."),
    ("How many questions?", "One two three four five six seven."),
    ("A film", "so dull!"),
    ("The quick brown fox jumps over the lazy dog. What is the capital of France? Is it", "Paris?"),
]
GRID = (list(FAMILIES), SIDES, (False, True))
"""Family of tokenizers, side that is padded, and whether the end token pads."""


class Said(Instructions):
    """These prompts with these completions, to train and to validate with."""

    def __init__(self, rows: Sequence[tuple[str, str]], val: Sequence[tuple[str, str]] | None = None, **kwargs: Any):
        super().__init__(**{"path": "in memory", "batch_size": len(rows), "seed": 0, **kwargs})
        self.rows, self.val = list(rows), list(val or rows)

    def load(self) -> Splits:
        def of(rows: list[tuple[str, str]]) -> InstructionRows:
            return InstructionRows(Table("said", {"prompt": [p for p, _ in rows], "completion": [c for _, c in rows]}))

        return Splits(of(self.rows), of(self.val))


def language_model(
    folder: Path, family: str, side: str, eos: bool, kind: str = "llama", template: str | None = None
) -> TransformersLM:
    made = tokenizer(family, side, eos)
    made.chat_template = template
    layers = {"n_layer": 1, "n_positions": 128} if kind == "gpt2" else {"num_hidden_layers": 1}
    if kind == "llama":
        layers["max_position_embeddings"] = 128
    network = TransformersLM(
        TaskInfo("causal_lm", 0),
        pretrained=tiny_folder(folder, kind, "lm", tokenizer=made, **layers),
        max_length=128,
        dropout=0.0,
    )
    assert network.tokenizer.padding_side == side
    assert (network.tokenizer.pad_token_id == network.tokenizer.eos_token_id) == eos
    return network.double()


def batch_of(data: SFTDataModule, network: Network) -> Batch:
    """All validation samples in one batch."""
    data.setup()
    settle(data, network)
    (batch,) = data.val_dataloader()
    return batch


def padded(batch: Batch, side: str) -> bool:
    return bool((batch["x"]["attention_mask"][:, 0 if side == "left" else -1] == 0).any())


def in_order(batch: Batch, values: Sequence[Any]) -> list[Any]:
    return [v for _, v in sorted(zip(batch["index"].tolist(), values, strict=True))]


# ---- labels ----


def plain(text: str) -> str:
    """Without what a tokenizer cannot keep: WordPiece knows neither case nor spaces, T5 one kind of space."""
    return "".join(text.lower().split())


@covering("family side eos", *GRID)
def test_labels_are_the_completion_and_its_one_end(tmp_path: Path, family: str, side: str, eos: bool) -> None:
    network = language_model(tmp_path, family, side, eos)
    batch = batch_of(Said(PAIRS), network)
    assert padded(batch, side), "nothing is padded, so that padding is not tested"
    x, end = batch["x"], network.tokenizer.eos_token_id
    labels = in_order(batch, [t.tolist() for t in batch["y"].split(batch["select"].sum(1).tolist())])
    for (_, completion), ids in zip(PAIRS, labels, strict=True):
        assert ids[-1] == end and ids.count(end) == 1, f"the labels of {completion!r} have no end, or more than one"
        said = network.tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
        if family.startswith(("WordPiece", "SentencePiece unigram, T5")):
            assert plain(said) == plain(completion)
        else:
            assert said.removeprefix(" ") == completion  # SentencePiece may put its mark of a new word first
    for row, mask, ids in zip(batch["select"], x["attention_mask"].bool(), x["input_ids"], strict=True):
        assert int(row.sum()) == int(row[mask].sum()), "padding is supervised"
        assert ids[mask][-1] == end, "the end is padded away"
        assert bool(row[mask][-2]) and not bool(row[mask][-1]), "the token before the end is not asked for the end"
    assert batch["count"] == len(batch["y"]) == int(batch["select"].sum())


ONE_AFTER_ANOTHER = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
BROUGHT = {
    "nobody": (None, ""),
    "the text": (None, "<s>"),
    "the template": (MISTRAL, ""),
    "both": (ONE_AFTER_ANOTHER, "<s>"),
}


@covering("family side eos who", *GRID, list(BROUGHT))
def test_exactly_one_bos_where_the_family_has_one_whoever_brings_one(
    tmp_path: Path, family: str, side: str, eos: bool, who: str
) -> None:
    template, first = BROUGHT[who]
    if family not in BEGINS:
        template, first = template and template.replace("{{ bos_token }}", ""), ""
    network = language_model(tmp_path, family, side, eos, template=template)
    batch = batch_of(Said([(first + prompt, completion) for prompt, completion in PAIRS]), network)
    bos, x = network.tokenizer.bos_token_id, batch["x"]
    for ids, mask in zip(x["input_ids"], x["attention_mask"].bool(), strict=True):
        if family in BEGINS:
            assert ids[mask][0] == bos and int((ids[mask] == bos).sum()) == 1
        elif bos is not None and bos != network.tokenizer.eos_token_id:
            assert not (ids[mask] == bos).any()
        else:
            assert ids[mask][0] != network.tokenizer.cls_token_id or network.tokenizer.cls_token_id is None


# ---- padding ----


def loss_and_gradient(network: Network, batches: Sequence[Batch]) -> Tensors:
    """Summed over batches."""
    task, losses = make_task(network.task), []
    network.zero_grad()
    for batch in batches:
        losses.append(task.loss(network(batch["x"], task.select(batch)), batch).total)
        losses[-1].backward()
    found: dict[str, Tensor] = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return {"loss": torch.stack(losses).sum().detach(), **found}


def check_padding(network: Network, data: SFTDataModule, side: str) -> None:
    """A padded batch against its samples one at a time."""
    together = batch_of(data, network)
    assert padded(together, side), "nothing is padded, so that padding is not tested"
    split = data.splits["val"]
    singles = [split[position] for position in range(len(split))]
    assert not any(padded(s, "left") or padded(s, "right") for s in singles)
    off, name = error(loss_and_gradient(network, [together]), loss_and_gradient(network, singles))
    figures.note(f"loss and gradient of padded texts, padding on the {side}", off, "relative")
    assert off <= 1e-6, f"padding on the {side} changes {name} by {off:.1e}"


@covering("family side eos kind", *GRID, ("llama", "gpt2"))
def test_padding_changes_neither_loss_nor_gradient_of_a_language_model(
    tmp_path: Path, family: str, side: str, eos: bool, kind: str
) -> None:
    check_padding(language_model(tmp_path, family, side, eos, kind), Said(PAIRS), side)


ENCODERS = {
    "bert": "WordPiece, BERT",
    "distilbert": "WordPiece, BERT",
    "roberta": "byte-level BPE with BOS, Llama 3",
}
DECODERS = {"gpt2": "byte-level BPE, GPT-2", "llama": "SentencePiece BPE, Llama"}
POOLINGS = ("model", "mean", "cls", "last")


def pools(kind: str, pooling: str, *_: Any) -> bool:
    """A decoder's first position has seen nothing: there is no `cls`."""
    return kind in ENCODERS or pooling != "cls"


@covering("kind pooling side labels", list(ENCODERS | DECODERS), POOLINGS, SIDES, (("no", "yes"), ()), allowed=pools)
def test_padding_changes_neither_loss_nor_gradient_of_a_classifier(
    tmp_path: Path, kind: str, pooling: Any, side: str, labels: tuple[str, ...]
) -> None:
    """An encoder reads a text from its first token on: it is padded on the right, whatever its tokenizer says."""
    layers = {"gpt2": "n_layer", "distilbert": "n_layers"}.get(kind, "num_hidden_layers")
    folder = tiny_folder(
        tmp_path, kind, "sequence", tokenizer=tokenizer((ENCODERS | DECODERS)[kind], side, False), **{layers: 1}
    )
    task = TaskInfo("classification", 2) if labels else TaskInfo("regression", 1)
    network = TransformersText(task, pretrained=folder, pooling=pooling, dropout=0.0).double()
    data = FewTexts((8, 8, 8), labels, batch_size=8)
    check_padding(network, data, side if kind in DECODERS else "right")


# ---- nothing supervised ----


@covering("family side eos", *GRID)
def test_a_batch_without_labels_costs_nothing(tmp_path: Path, family: str, side: str, eos: bool) -> None:
    network = language_model(tmp_path, family, side, eos)
    batch = batch_of(Said(PAIRS), network)
    nothing = {**batch, "select": torch.zeros_like(batch["select"]), "y": batch["y"][:0], "count": 0}
    found = loss_and_gradient(network, [nothing])
    assert found.pop("loss").item() == 0.0
    assert found and not any(g.any() for g in found.values()), "a batch without labels has a gradient, or NaN"


def test_texts_of_the_data_differ_in_length() -> None:
    counts = {len(t.split()) for t in few_texts(40, 0)}
    assert len(counts) > 8


def test_a_validation_split_without_labels_is_refused(tmp_path: Path) -> None:
    network = language_model(tmp_path, "byte-level BPE, GPT-2", "right", False)
    data = Said([("a", "b")] * 4, [("The quick brown fox jumps over the lazy dog. " * 3, "b")] * 4, max_length=12)
    with refused("data.max_length", "val", "12"):
        batch_of(data, network)
