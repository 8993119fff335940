"""Questions with their contexts as windows of tokens."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Texts
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.squad_files import Answer
from sft_lightning.data.text.tokens import CHUNK, Ragged, Tokens
from sft_lightning.tasks.question_answering import LONGEST, Asked

FLAWS = ("lost", "inexact", "long")


class QuestionRows(Tokens):
    """Questions, each with its context in windows: question first, then a part of the context.

    Args:
        questions: One for each row.
        contexts: The text that each question is about.
        answers: The answers of each question, as they stand in its context; None if they are unknown.
        table: The table that holds them, to name rows.
        stride: Tokens of the context that a window shares with the next; None for a third of the window.
    """

    one_item_each = True

    def __init__(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        answers: Sequence[Sequence[Answer]] | None,
        table: Table,
        stride: int | None = None,
    ) -> None:
        super().__init__(None)
        self.questions, self.contexts, self.table, self.stride = list(questions), list(contexts), table, stride
        self.answers = None if answers is None else [list(of) for of in answers]
        self.windows = np.zeros(0, dtype=np.int64)
        """`[rows + 1]`: number of each row's first window, among all windows"""
        self.chosen = Ragged([])
        """For each window: 1 for tokens that may answer, the first and those of the context that have characters"""
        self.places: list[np.ndarray] = []
        """For each window: first character, and the one after the last, of each token that may answer"""
        self.goals = np.zeros((0, 1, 2), dtype=np.int64)
        """`[rows, K, 2]`: the targets, see `ExtractiveQA`; K is the largest number of windows of any row"""
        self.flaws = {kind: np.zeros(0, dtype=bool) for kind in FLAWS}
        """Which rows' first answers lie in no window, begin or end within a token, or are longer than what is said"""

        self.silent = np.zeros(0, dtype=bool)
        """Which rows' contexts have no token that may answer, as a lone zero-width space"""

    def __len__(self) -> int:
        return len(self.questions)

    # ---- tokens ----

    def tokenise(self) -> None:
        """Makes the windows. Questions that leave too little room for the context are cut."""
        ids: list[list[int]] = []
        types: list[list[int]] = []
        chosen: list[np.ndarray] = []
        counts = np.zeros(len(self), dtype=np.int64)
        self.places, self.truncated = [], np.zeros(len(self), dtype=bool)
        goals: list[list[tuple[int, int]]] = []
        self.flaws = {kind: np.zeros(len(self), dtype=bool) for kind in FLAWS}
        for start in range(0, len(self), CHUNK):
            rows = range(start, min(start + CHUNK, len(self)))
            made = self._call(rows)
            ids += made["input_ids"]
            types += made.get("token_type_ids", [])
            owners = made.get("overflow_to_sample_mapping") or range(len(made["input_ids"]))
            for window, row in enumerate(owners):
                may, places = self._may_answer(start + row, made.sequence_ids(window), made["offset_mapping"][window])
                chosen.append(may)
                self.places.append(places)
                counts[start + row] += 1
        self.windows = np.concatenate([[0], counts.cumsum()])
        self.ids, self.types = Ragged(ids), Ragged(types, np.int8) if types else None
        self.chosen = Ragged([may.tolist() for may in chosen], np.int8)
        several = np.array([may.sum() > 1 for may in chosen], dtype=bool)
        self.silent = ~np.logical_or.reduceat(several, self.windows[:-1])
        goals = [self._goals(row) for row in range(len(self))]
        self.goals = np.full((len(self), max(1, int(counts.max())), 2), -1, dtype=np.int64)
        for row, of in enumerate(goals):
            self.goals[row, : len(of)] = of

    def _call(self, rows: Sequence[int]) -> Any:
        """The windows of some rows."""
        questions, contexts = [self.questions[r] or "?" for r in rows], [self.contexts[r] or "?" for r in rows]
        settings: dict[str, Any] = {"return_offsets_mapping": True, "verbose": False}
        if self.max_length is None:
            if self.stride is not None:
                raise UserError(
                    "data.doc_stride", "has no effect, since the network takes texts of any length", "leave it out"
                )
            return self.tokenizer(questions, contexts, **settings)
        stride = self.max_length // 3 if self.stride is None else self.stride
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - max(1, 2 * stride)
        if room < 1:
            raise UserError(
                "data.doc_stride",
                f"{stride} tokens, twice, leave no room for a question in windows of {self.max_length} tokens",
                "set it lower, or data.max_length higher",
            )
        alone = self.tokenizer(questions, add_special_tokens=False, **settings)
        for at, places in enumerate(alone["offset_mapping"]):
            if len(places) > room:
                questions[at] = questions[at][: max(1, places[room - 1][1])]
                self.truncated[rows[at]] = True
        settings |= {"truncation": "only_second", "max_length": self.max_length, "stride": stride}
        return self.tokenizer(questions, contexts, return_overflowing_tokens=True, **settings)

    def _may_answer(
        self, row: int, of: Sequence[int | None], offsets: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(1 for each token that may answer, their characters); the first token has none."""
        places = np.array(offsets, dtype=np.int32).reshape(-1, 2)
        may = np.array([part == 1 for part in of], dtype=bool) & (places[:, 1] > places[:, 0])
        blank = [not self.contexts[row][a:b].strip() for a, b in places[may].tolist()]
        may[np.flatnonzero(may)[blank]] = False
        may[0] = True
        places = places[may]
        places[0] = 0
        return may.astype(np.int8), places

    def _goals(self, row: int) -> list[tuple[int, int]]:
        """Start and end of the first answer in each window of a row; (0, 0) in windows that do not hold it."""
        windows = range(self.windows[row], self.windows[row + 1])
        answers = self.answers[row] if self.answers else []
        if not answers:
            return [(0, 0)] * len(windows)
        answer, found, lost = answers[0], [], True
        for window in windows:
            begin, end = self.places[window][1:].T
            first, last = int(np.searchsorted(end, answer.start, "right")), int(np.searchsorted(begin, answer.end)) - 1
            before = len(begin) and window != windows[0] and answer.start < begin[0]
            beyond = len(begin) and window != windows[-1] and answer.end > end[-1]
            if before or beyond or not 0 <= first <= last < len(begin):
                found.append((0, 0))
                continue
            found.append((first + 1, last + 1))
            lost = False
            said = self.contexts[row][begin[first] : end[last]].strip()
            self.flaws["inexact"][row] |= said != answer.text
            self.flaws["long"][row] |= last - first >= LONGEST
        self.flaws["lost"][row] = lost
        return found

    # ---- batches ----

    def windows_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Number of windows of each of these rows."""
        numbers = np.asarray(rows)
        counts: np.ndarray = self.windows[numbers + 1] - self.windows[numbers]
        return counts

    def lengths(self) -> np.ndarray | None:
        """Tokens of all windows of each row."""
        self.ready()
        return np.add.reduceat(self.ids.lengths, self.windows[:-1]) if self.group_by_length else None

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Inputs and `select`: `[B, K, T]`; `y[B, …, 2]` if answers are known, wide enough for every row."""
        self.ready()
        counts = self.windows_of(rows)
        numbers = [w for row in rows for w in range(self.windows[row], self.windows[row + 1])]
        there = torch.arange(int(counts.max()))[None] < torch.from_numpy(counts)[:, None]
        flat = self.batch(numbers)
        flat["select"] = self.chosen.padded(numbers, flat["input_ids"].shape[1], 0, self.left).bool()
        x: dict[str, Any] = {name: spread(value, there, self._fill(name)) for name, value in flat.items()}
        if self.answers is not None:
            x["y"] = torch.from_numpy(self.goals[list(rows)])
        return x

    def _fill(self, name: str) -> int:
        return int(self.tokenizer.pad_token_id or 0) if name == "input_ids" else 0

    def beside(self, rows: Sequence[int]) -> Texts:
        """What is known of these rows: an `Asked` each."""
        self.ready()
        return Texts(self._asked(row) for row in rows)

    def _asked(self, row: int) -> Asked:
        places = tuple(self.places[self.windows[row] : self.windows[row + 1]])
        answers = self.answers[row] if self.answers is not None else []
        return Asked(self.contexts[row], places, tuple(answer.text for answer in answers))

    # ---- what they are ----

    def digest(self) -> bytes:
        answers: Sequence[Sequence[Answer] | None] = self.answers or [None] * len(self)
        said = zip(self.questions, self.contexts, answers, strict=True)
        return sha256(
            repr([(q, c, None if a is None else list(map(tuple, a))) for q, c, a in said]).encode(
                "utf-8", "surrogatepass"
            )
        ).digest()

    def contents(self) -> np.ndarray:
        both = zip(self.questions, self.contexts, strict=True)
        said = (content(*(t.encode("utf-8", "surrogatepass") for t in texts)) for texts in both)
        return np.fromiter(said, dtype=np.uint64, count=len(self))

    @property
    def plain_contexts(self) -> list[str]:
        """The contexts without differences of white space and of Unicode form."""
        plain = {context: " ".join(normalize("NFC", context).split()) for context in set(self.contexts)}
        return [plain[context] for context in self.contexts]

    def groups(self) -> np.ndarray:
        """Rows about the same context are a group, wherever it stands in the file."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(text, len(numbers)) for text in self.plain_contexts], dtype=np.int64)

    def usable_answers(self) -> list[list[Answer]]:
        """The answers of the rows that are not left out."""
        bad = self.bad_rows()
        return [of for row, of in enumerate(self.answers or []) if row not in bad]

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def shown(self, row: int) -> dict[str, Any]:
        """The question, and the text that answers it."""
        return {"question": self.questions[row], "text": self.contexts[row]}

    def raw(self, row: int) -> dict[str, Any]:
        """Empty if a part is blank, or if the question was cut to leave room for its context."""
        question, context = self.questions[row], self.contexts[row]
        if self.truncated[row] or not question or not context:
            return {}
        return {"question": question, "context": context, "stride": self.stride}

    def name(self, row: int) -> str:
        return self.table.name(row)


def spread(values: Tensor, there: Tensor, fill: int) -> Tensor:
    """Windows `[W, T]` as `[B, K, T]`, where `there[B, K]` has W places; the others are `fill`."""
    out = values.new_full((*there.shape, values.shape[-1]), fill)
    out[there] = values
    return out
