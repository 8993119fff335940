"""Instructions with answers, to tune language models on: the loss is on the answers alone, including their ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.data.arguments import NonNegativeInt, check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table, check_hub, hub_tables, read_table
from sft_lightning.data.text.notes import together
from sft_lightning.data.text.prompts import Prompts
from sft_lightning.tasks import CausalLM


class Instructions(TokenData):
    """Prompts with completions, from JSON or JSONL files or the hub, in any of three layouts:

    - `prompt`, `completion`: texts, or lists of messages; the completion is supervised, answers in the prompt are not;
    - `instruction`, `input` (may be empty), `output`: Alpaca's; pairs in `history` come before, and are not supervised;
    - `messages` (or `conversations`): a list of `{role, content}` or `{from, value}` with roles system, user, assistant,
      tool; every assistant turn is supervised, except those with `weight` 0 (or `train`, `trainable`, `loss` false).

    A column `system` is the system message, `tools` and `chat_template_kwargs` go to the chat template. Columns and keys
    that are not used, and roles read as others, are named and counted in `describe()`.

    Conversations are written with the tokenizer's chat template. If it has none, a prompt is followed by its completion,
    with a line break between unless one of them has white space there; instructions get Alpaca's template; messages
    become `### User:`, `### Assistant:` paragraphs; each answer ends with EOS. Samples whose answers lie wholly beyond
    max_length are dropped, and counted in `describe()`. An export also stops generating at the tokens that end answers.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training samples (.json or .jsonl).
        val: File with the validation samples; default a share of the training samples.
        test: File with the test samples.
        predict: File with prompts in the same layout, to generate answers for; it needs no answers.
        generate_samples: Validation samples for which the last answer is generated and scored (exact match, ROUGE-L), drawn
            evenly; testing does it for all samples; 0 for none.
        max_length: Most tokens of a sample, special ones included; longer samples are truncated; default the network's.
        group_by_length: Make batches of samples of similar length, to save padding.
        packing: Whether samples of a micro-batch share rows of up to max_length tokens. Each sees itself alone, so that
            nothing but the padding changes. Refused for a network that cannot keep the samples of a row apart.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "tokens"
    task_name = "causal_lm"

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        generate_samples: NonNegativeInt = 0,
        max_length: int | None = None,
        group_by_length: bool = True,
        packing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(Instructions.__init__, {"self": self, "generate_samples": generate_samples})
        self.generate_samples = generate_samples
        if generate_samples:
            self.metrics = (*CausalLM.default_metrics, "exact_match", "rougeL")
        self.path, self.config, self.files = path, config, {"train": train, "val": val, "test": test}
        check_hub(self.path, self.config, self.files)
        self.prompts = predict
        self.packing = packing
        self.dropped: dict[str, int] = {}
        """Samples of each split without a supervised token"""
        self._every_row: dict[str, np.ndarray] = {}
        if (path is None) == (train is None):
            raise UserError(
                "data", "Instructions needs one of train (a file) and path (a data set on the hub)", "set one"
            )

    def load(self) -> Splits:
        if self.path is not None:
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
                )
            tables = {n: hub[t] for n, t in (("train", "train"), ("val", "validation"), ("test", "test")) if t in hub}
        else:
            named = {n: f for n, f in self.files.items() if f is not None}
            tables = divided({n: read_table(f, f"data.{n}", self.skips) for n, f in named.items()})
        rows = {name: InstructionRows(table) for name, table in tables.items()}
        notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(rows["train"], rows.get("val"), rows.get("test"), notes=notes)

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict`. Its prompts continue as those of the training file do."""
        if self.prompts is None:
            return None
        return Prompts(read_table(self.prompts, "data.predict", self.skips), self._training_table())

    def _training_table(self) -> Table | None:
        """The training samples' table; None if the file is not there."""
        if self.path is not None:
            return hub_tables(self.path, self.config, skip=True).get("train")
        file = self.files["train"]
        there = file is not None and Path(file).expanduser().is_file()
        return divided({"train": read_table(file, "data.train", skip=True)})["train"] if file and there else None

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Returns 0: the network knows the size of its vocabulary."""
        return 0

    def prepare(self, spec: InputSpec) -> InputView:
        """Tokenises, drops samples without a supervised token, and adds the tokens that end the training answers."""
        for name, split in self.splits.items():
            split.rows = self._every_row.setdefault(name, split.rows)
        view = super().prepare(spec)
        for name, split in self.splits.items():
            assert isinstance(split.samples, InstructionRows)
            split.rows = self.usable(name, split.samples, split.rows)  # a chat template may have refused some
            keep = split.samples.kept()[split.rows]
            self.dropped[name] = int((~keep).sum())
            if not keep.any():
                raise UserError(
                    "data.max_length",
                    f"every completion of the {name} split lies beyond {view.max_length} tokens",
                    "set it higher",
                )
            split.rows = split.rows[keep]
        train = self.splits.get("train")
        if train is None:
            return view
        assert isinstance(train.samples, InstructionRows)
        return replace(view, ends=tuple(train.samples.taught_ends(train.rows)))

    def describe(self) -> str:
        """Adds dropped samples, columns and keys of the files that are not used, and roles that are read as others."""
        gone = [f"{number} of {name}" for name, number in self.dropped.items() if number]
        line = super().describe() + (f"; dropped, completion beyond max_length: {', '.join(gone)}" if gone else "")
        rows = {id(s.samples): s.samples for s in self.splits.values() if isinstance(s.samples, InstructionRows)}
        return "; ".join([line, *together(notes for samples in rows.values() for notes in samples.notes())])
