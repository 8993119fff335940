"""Questions about a text, whose answers are cut from it: SQuAD and data of its form."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split import Split
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.files import Table, check_hub, hub_tables
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.data.text.squad_files import answers_of, read_questions, refuse_repeats, texts_of
from sft_lightning.tasks.answer_scores import OUTPUTS, OUTPUTS_OR_NONE
from sft_lightning.tasks.question_answering import LONGEST


class SQuAD(TokenData):
    """Questions about a text with answers from it: SQuAD's JSON (1.1 and 2.0), tables, or a data set on the hub.

    Tables (.csv, .tsv, .json, .jsonl, .parquet) have the columns question, context and answers, as `datasets` has
    them (text and answer_start, lists), or answer and answer_start. Splits and fractions are by context: no text is in two
    splits that are drawn here. Training takes a question's first answer; scores take the best over all of them. If some
    question has no answer, none may be said: where its score is above that of the best answer. Answers of more than 30
    tokens are never said.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training questions.
        val: File with the validation questions; default those of a share of the training contexts.
        test: File with the test questions.
        predict: File to predict on; it needs no answers, and predicting needs no training data.
        max_length: Most tokens of a window, which has the question, a part of the context and special tokens; default the
            network's.
        doc_stride: Tokens of the context that a window shares with the next; default a third of max_length. A question
            may fill what two of them leave of a window, and is cut beyond.
        group_by_length: Make batches of questions with contexts of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "questions"
    task_name = "extractive_qa"

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        max_length: int | None = None,
        doc_stride: Annotated[int, Range(0)] | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(SQuAD.__init__, locals())
        self.path, self.config, self.doc_stride = path, config, doc_stride
        self.files = {"train": train, "val": val, "test": test, "predict": predict}
        if path is not None and train is not None:
            raise UserError(
                "data", "path (a data set on the hub) and train (a file) are both set", "set only one of them"
            )
        check_hub(self.path, self.config, self.files)
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(
                    f"data.{option}", "cannot choose questions, which have no class", "use data.train_fraction"
                )

    def _tables(self) -> Mapping[str, Table]:
        if self.path is not None:
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
                )
            names = (("train", "train"), ("val", "validation"), ("test", "test"))
            return {ours: hub[theirs] for ours, theirs in names if theirs in hub}
        if self.files["train"] is None:
            raise UserError("data", "SQuAD needs train (a file) or path (a data set on the hub)", "set one of them")
        named = {n: f for n, f in self.files.items() if f is not None and n != "predict"}
        return divided({n: read_questions(f, f"data.{n}", self.skips) for n, f in named.items()})

    def load(self) -> Splits:
        notes, rows, tables = Notes(), {}, self._tables()
        for name, table in tables.items():
            questions, contexts = texts_of(table, "question"), texts_of(table, "context")
            refuse_repeats(table)
            rows[name] = QuestionRows(questions, contexts, answers_of(table, contexts, notes), table, self.doc_stride)
        lines = [*dict.fromkeys(note for table in tables.values() for note in table.notes), *notes.lines()]
        known = set(rows["train"].plain_contexts)
        for name in rows.keys() - {"train"}:
            if again := sum(text in known for text in rows[name].plain_contexts):
                lines.append(
                    f"warning: {again:,} of {plural(len(rows[name]), 'question')} of {name} are about texts of train too"
                )
        none = {name: sum(not answers for answers in of.usable_answers()) for name, of in rows.items()}
        if none["train"] == len(rows["train"].usable_answers()):
            raise UserError("data.train", "has no question with an answer", "add some")
        for name, count in none.items():
            if count:
                lines.append(
                    f"{count:,} of {plural(len(rows[name]), 'question')} of {name} have no answer, so none may be said"
                )
        labels = OUTPUTS_OR_NONE if any(none.values()) else OUTPUTS
        return Splits(rows["train"], rows.get("val"), rows.get("test"), list(labels), lines)

    def prepare(self, spec: InputSpec) -> InputView:
        """Makes the windows. A question whose context has no token is refused, or left out of its split."""
        view = super().prepare(spec)
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, QuestionRows)
            silent = samples.silent[split.rows] if len(samples.silent) else np.zeros(len(split), dtype=bool)
            if not silent.any():
                continue
            rows, why = split.rows[silent].tolist(), "the tokenizer makes no token of the context"
            if not self.skips or silent.all():
                problem = f"{samples.name(rows[0])}: {why} {samples.contexts[rows[0]]!r:.40}"
                raise UserError("data", problem, "remove it, or set data.on_bad_sample skip")
            self.note_skipped(name, {samples.name(row): why for row in rows}, of_all_ranks=True)
            self.splits[name] = Split(samples, split.rows[~silent], None, split.train, name)
            self.total_train -= len(rows) if name == "train" else 0
        return view

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its answers."""
        if self.files["predict"] is None:
            return None
        table = read_questions(self.files["predict"], "data.predict", self.skips)
        return QuestionRows(texts_of(table, "question"), texts_of(table, "context"), None, table, self.doc_stride)

    def describe(self) -> str:
        """Adds the numbers of contexts and of windows, and of answers that cannot be learnt or said as they are."""
        line = super().describe()
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, QuestionRows)
            if not len(samples.windows):
                continue
            windows = int(samples.windows_of(split.rows).sum())
            if windows > len(split):
                line += f"; {name} has {windows:,} windows"
            if samples.answers is None:
                continue
            for kind, what in (
                ("lost", "in no window, learnt as none"),
                ("inexact", "with an end within a token"),
                ("long", f"of more than {LONGEST} tokens, never said"),
            ):
                if count := int(samples.flaws[kind][split.rows].sum()):
                    line += f"; {plural(count, 'answer')} of {name} {what}"
        return line
