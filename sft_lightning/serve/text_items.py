"""Texts, pairs of texts, and texts to tag."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.sampler import Key
from sft_lightning.data.split import Split
from sft_lightning.data.text.own_texts import add_words
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.data.text.tokens import TextRows, Tokens
from sft_lightning.networks.base import Network
from sft_lightning.serve.items import Found, Item, Prepared, Reader

MOST_TOKENS = 1 << 14
"""Tokens of a batch, padding included, if the network takes no more in one text"""


class TextReader(Reader):
    """Texts and pairs of texts, tokenised as for the run."""

    kind, takes = "text", "texts"
    fields: ClassVar[tuple[str, ...]] = ("text", "pair")
    generates: ClassVar[bool] = False
    """Whether the network writes texts"""

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        spec = network.input_spec
        self.tokenizer = spec.tokenizer
        of_tokenizer = None if arguments else getattr(spec.tokenizer, "model_max_length", None)
        limits = (spec.max_length, arguments.get("max_length"), of_tokenizer)  # an export limits its tokenizer
        known = [int(limit) for limit in limits if limit and limit < 10**9]
        self.max_length = min(known) if known else None
        self.most_tokens = max(MOST_TOKENS, self.max_length or 0)
        self.multiple = 8 if device.type == "cuda" else 1
        table = str(arguments.get("class_path", "")).rpartition(".")[2] in ("TextTable", "MultiLabelTable")
        self.pairs: bool | None = bool(arguments.get("pair_column")) if table else None
        """Whether each text has a second one; None if that is unknown"""

    def check(self, item: Item) -> None:
        refuse_others(self, item, "texts")
        if item.words is not None:
            raise UserError("data", f"{item.name} has words, and the model takes texts")
        if self.pairs is False and item.pair is not None:
            raise UserError("data", f"{item.name} has a pair, and the model was tuned on single texts")
        if self.pairs and item.pair is None:
            raise UserError("data", f"{item.name} has no pair, and the model was tuned on pairs of texts")

    def batches(self, items: Sequence[Item]) -> Found:
        for paired in (False, True):
            at = [n for n, item in enumerate(items) if (item.pair is not None) == paired]
            if at:
                texts = [items[n].text or "" for n in at]
                yield from self.cut(at, items, TextRows(texts, [items[n].pair or "" for n in at] if paired else None))

    def sizes(self, samples: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """For each sample, the rows of input that it has, and the tokens of the longest."""
        return np.ones(len(samples), dtype=np.int64), samples.ids.lengths

    def cut(self, at: list[int], items: Sequence[Item], samples: Tokens, bad: Mapping[int, str] | None = None) -> Found:
        """Batches of samples of similar size, with at most `most_tokens` tokens. `bad` may grow while texts are tokenised."""
        samples.use(self.tokenizer, self.max_length, self.multiple)
        samples.ready()
        rows, lengths = self.sizes(samples)
        most, part, tall, wide = int(self.most_tokens * self.share), list[int](), 0, 0
        for row in np.argsort(rows * lengths, kind="stable").tolist():
            tokens = int(rows[row] * lengths[row])
            if bad and row in bad:
                yield at[row], UserError("data", f"{items[at[row]].name} {bad[row]}")
            elif self.limited and tokens > self.most_tokens:
                problem = f"{items[at[row]].name} has {tokens} tokens, and at most {self.most_tokens} are served"
                yield at[row], UserError("data", problem)
            else:
                width = -(-int(lengths[row]) // self.multiple) * self.multiple
                if part and (len(part) + 1) * max(tall, int(rows[row])) * max(wide, width) > most:
                    yield self.prepared(at, samples, part)
                    part, tall, wide = [], 0, 0
                part.append(row)
                tall, wide = max(tall, int(rows[row])), max(wide, width)
        if part:
            yield self.prepared(at, samples, part)

    def prepared(self, at: list[int], samples: Tokens, rows: list[int]) -> Prepared:
        """One batch."""
        keys = [Key(row, 0, generated=self.generates) for row in rows]
        batch = Split(samples, np.arange(len(samples)), None, False, "request").__getitems__(keys)

        def finish(place: int, prediction: dict[str, Any], task: TaskInfo) -> dict[str, Any]:
            """Adds places in the text, or the text of a choice."""
            held = samples.completed(rows[place], prediction, task)
            return {name: value for name, value in held.items() if name != "row"}

        return Prepared([at[r] for r in rows], batch, finish, [bool(samples.truncated[r]) for r in rows])

    def example(self) -> Item:
        return Item("example", "a text", "another one" if self.pairs else None)


class WordReader(TextReader):
    """Texts that are split into words, or lists of words, each of which gets a tag."""

    kind = "words"
    fields = ("text", "words")

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.split_words: SplitWords = arguments.get("split_words") or "punctuation"

    def check(self, item: Item) -> None:
        refuse_others(self, item, "texts")
        if item.pair is not None:
            raise UserError("data", f"{item.name} has a pair, and the model tags single texts")

    def batches(self, items: Sequence[Item]) -> Found:
        given = [n for n, item in enumerate(items) if item.words is not None]
        if given:
            sentences = Sentences.of([list(items[n].words or ()) for n in given], "request")
            yield from self.cut(given, items, TaggedRows(sentences, None))
        at = [n for n, item in enumerate(items) if item.words is None]
        if at:
            sentences = Sentences("request", skip=True)
            sentences.texts, sentences.unit = [], "row"
            for row, n in enumerate(at):
                sentences.add([], [], row)
                add_words(sentences, row, items[n].text or "", self.split_words)
            bad = dict.fromkeys(sentences.bad or {}, "has no words")
            yield from self.cut(at, items, TaggedRows(sentences, None), bad)


def refuse_others(reader: Reader, item: Item, what: str) -> None:
    """Raises UserError for an item with named fields, which the model does not take."""
    if item.row is not None:
        raise UserError("data", f"{item.name} has {', '.join(item.row)}, and the model takes {what}")
