"""Questions with choices as samples: each choice is one row of input, read together with its question."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import TextRows, Tokens
from sft_lightning.data.text.choice_table import Choices
from sft_lightning.data.text.files import Table


class AfterContext(TextRows):
    """Pairs (context, question and choice), of which only the context is truncated.

    Where a question and its choice leave no room for a context, they are read without it, as the pair (question, choice).

    Args:
        contexts: One for each choice.
        questions: One for each choice.
        choices: The choices.
    """

    def __init__(self, contexts: Sequence[str], questions: Sequence[str], choices: Sequence[str]) -> None:
        super().__init__(contexts, [f"{question} {text}" for question, text in zip(questions, choices, strict=True)])
        self.alone = TextRows(questions, choices)

    def tokenise(self) -> None:
        self.without = list[int]()
        """Rows that are read without a context"""
        super().tokenise()
        self.truncated[self.without] = True

    def _call(self, rows: Sequence[int], max_length: int | None) -> Any:
        made = super()._call(rows, None)
        over = [len(ids) - (max_length or len(ids)) for ids in made["input_ids"]]
        long = [at for at, tokens in enumerate(over) if tokens > 0]
        if not long:
            return made
        contexts = self.tokenizer([self.texts[rows[at]] for at in long], add_special_tokens=False, verbose=False)
        room = [at for at, ids in zip(long, contexts["input_ids"], strict=True) if len(ids) > over[at]]
        none = sorted(set(long) - set(room))
        self.without += [rows[at] for at in none]
        for places, source, how in ((room, self, "only_first"), (none, self.alone, "longest_first")):
            if not places:
                continue
            asked = [rows[at] for at in places]
            assert source.pairs is not None
            cut = self.tokenizer(
                [source.texts[row] for row in asked],
                [source.pairs[row] for row in asked],
                truncation=how,
                max_length=max_length,
                return_attention_mask=False,
                verbose=False,
            )
            for name in made:
                for at, values in zip(places, cut[name], strict=True):
                    made[name][at] = values
        return made


class ChoiceRows(Tokens):
    """Questions with their choices: each choice is one row of input, read together with its question.

    Args:
        questions: One for each sample.
        choices: The choices of each sample; none in samples that are left out.
        targets: The place of the right choice; None for unlabelled samples.
        table: The table that holds them, to name rows.
        contexts: A text to read before each question; None without any.
    """

    one_item_each = True

    def __init__(
        self,
        questions: Sequence[str],
        choices: Sequence[Choices],
        targets: np.ndarray | None,
        table: Table,
        contexts: Sequence[str] | None = None,
    ) -> None:
        super().__init__(targets)
        self.choices, self.table = [c.texts for c in choices], table
        self.questions = list(questions)
        """With their contexts before them"""
        if contexts is not None:
            self.questions = [f"{context} {question}" for context, question in zip(contexts, questions, strict=True)]
        self.counts = np.array([len(texts) for texts in self.choices], dtype=np.int64)
        self.ends = np.cumsum(self.counts)
        of = np.repeat(np.arange(len(self)), self.counts).tolist()
        asked, texts = [questions[row] for row in of], [text for texts in self.choices for text in texts]
        self.pairs = (
            TextRows(asked, texts) if contexts is None else AfterContext([contexts[r] for r in of], asked, texts)
        )

    def __len__(self) -> int:
        return len(self.questions)

    def tokenise(self) -> None:
        """As pairs (question, choice), truncated from the longer text's end, or as pairs (context, question and choice), of
        which only the context is truncated; `ids` and `types` have a row for each choice.
        """
        self.pairs.use(self.tokenizer, self.max_length, self.multiple)
        self.pairs.tokenise()
        self.ids, self.types = self.pairs.ids, self.pairs.types
        of_choice = np.repeat(np.arange(len(self)), self.counts)
        self.truncated = np.bincount(of_choice[self.pairs.truncated], minlength=len(self)) > 0

    def lengths(self) -> np.ndarray | None:
        """Tokens of each sample's longest choice."""
        if super().lengths() is None:
            return None
        longest = np.zeros(len(self), dtype=np.int64)
        np.maximum.at(longest, np.repeat(np.arange(len(self)), self.counts), self.ids.lengths)
        return longest

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Inputs `[B, K, T]` for up to K choices, and `select[B, K]`, the choices that there are; others are padding."""
        self.ready()
        flat = self.batch([int(at) for row in rows for at in range(self.ends[row] - self.counts[row], self.ends[row])])
        counts = torch.from_numpy(self.counts[list(rows)])
        there = torch.arange(int(counts.max()))[None] < counts[:, None]
        x: dict[str, Any] = {"select": there}
        for name, values in flat.items():
            fill = (self.tokenizer.pad_token_id or 0) if name == "input_ids" else 0
            x[name] = values.new_full((*there.shape, values.shape[1]), fill)
            x[name][there] = values
        return x

    def shown(self, row: int) -> dict[str, Any]:
        """The question and its choices."""
        return {"question": self.questions[row], "choices": list(self.choices[row])}

    def raw(self, row: int) -> dict[str, Any]:
        """Empty if a context was truncated, since plain tokenizers cut question and choice too."""
        if isinstance(self.pairs, AfterContext) and self.truncated[row]:
            return {}
        rows = slice(int(self.ends[row] - self.counts[row]), int(self.ends[row]))
        assert self.pairs.pairs is not None
        return {"first": self.pairs.texts[rows], "second": self.pairs.pairs[rows]}

    def digest(self) -> bytes:
        held = list(zip(self.questions, self.choices, strict=True))
        return sha256(repr(held).encode("utf-8", "surrogatepass")).digest()

    def contents(self) -> np.ndarray:
        every = ([question, *texts] for question, texts in zip(self.questions, self.choices, strict=True))
        made = (content(*(text.encode("utf-8", "surrogatepass") for text in texts)) for texts in every)
        return np.fromiter(made, dtype=np.uint64, count=len(self))

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def name(self, row: int) -> str:
        return self.table.name(row)

    def completed(self, row: int, prediction: dict[str, Any], task: TaskInfo | None) -> dict[str, Any]:
        """Adds the text of the chosen choice."""
        return {**prediction, "text": self.choices[row][prediction["choice"]]}
