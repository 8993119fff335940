"""Pairs of a source text and a target text: translations, summaries, and other texts to be written for a text."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.data.arguments import NonNegativeInt, PositiveInt, check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.files import FORMATS, Table, check_hub, hub_tables
from sft_lightning.data.text.pair_rows import PairRows
from sft_lightning.data.text.parallel import (
    SOURCE,
    TARGET,
    pair_table,
    parallel_table,
    references_of,
    sources_of,
    with_languages,
)
from sft_lightning.tasks.seq2seq import Seq2Seq
from sft_lightning.tasks.texts import TEXT_METRICS

TRANSLATION = ("bleu", "chrf")
SPLITS = {"train": "train", "val": "validation", "test": "test"}


class TextPairs(TokenData):
    """Source texts with target texts, from parallel text files, tables or the hub.

    A split is a list of two text files whose lines belong together, [train.en, train.de], or one table (.csv, .tsv, .json,
    .jsonl, .parquet) with a column for each text. A column `translation` with an object of texts by language, as the hub
    has it, gives one column for each language. A target may be a list of texts: the first is learned, and generated texts
    are scored against all.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: The training pairs, a table or a list of two text files.
        val: The validation pairs; default a share of the training pairs.
        test: The test pairs.
        predict: Source texts for which target texts are generated, a table or a text file; predicting needs no training data.
        source_column: Column with the source texts, or their language.
        target_column: Column with the target texts, or their language.
        header: Whether the first line of a .csv or .tsv names its columns. If not, they are source, target, 3, 4 and so on.
        source_prefix: Written before each source text, such as "translate English to German: " for T5.
        metrics: Scores of generated texts: bleu, chrf, rouge1, rouge2, rougeL, rougeLsum, exact_match; default bleu and chrf.
        generate_samples: Validation pairs for which texts are generated and scored, drawn evenly; testing does it for all
            pairs; 0 for none.
        max_length: Most tokens of a source text, special ones included; longer ones are truncated; default the network's.
        max_target_length: The same for target texts; default the network's.
        group_by_length: Make batches of pairs of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "pairs"
    task_name = "seq2seq"

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        predict: str | None = None,
        source_column: str = "source",
        target_column: str = "target",
        header: bool = True,
        source_prefix: str = "",
        metrics: list[str] | None = None,
        generate_samples: NonNegativeInt = 100,
        max_length: int | None = None,
        max_target_length: PositiveInt | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        given = {"self": self, "generate_samples": generate_samples, "max_target_length": max_target_length}
        given["header"] = header
        check_arguments(TextPairs.__init__, given)
        self.path, self.config = path, config
        self.files = {"train": train, "val": val, "test": test}
        check_hub(self.path, self.config, self.files)
        self.predict_file = predict
        self.columns, self.header, self.source_prefix = (source_column, target_column), header, source_prefix
        self.generate_samples, self.max_target_length = generate_samples, max_target_length
        self.metrics = scores(metrics, generate_samples)
        self.cut_targets: dict[str, float] = {}
        """Share of each split's target texts that were cut at max_target_length"""
        if source_column == target_column:
            raise UserError(
                "data.target_column", f"is '{target_column}', as is data.source_column", "name another column"
            )
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(
                    f"data.{option}", "needs classes, and pairs of texts have none", "use data.train_fraction"
                )

    def load(self) -> Splits:
        if (self.path is None) == (self.files["train"] is None):
            raise UserError(
                "data", "TextPairs needs one of train (files) and path (a data set on the hub)", "set one of them"
            )
        if self.path is not None:
            if not self.header:
                raise UserError(
                    "data.header", "false has no effect on the hub's data, which name their columns", "leave it out"
                )
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
                )
            tables = {ours: hub[theirs] for ours, theirs in SPLITS.items() if theirs in hub}
        else:
            named = {name: files for name, files in self.files.items() if files is not None}
            tables = divided({name: self._table(name, files) for name, files in named.items()}, *self.columns)
        rows = {name: self._rows_of(table) for name, table in tables.items()}
        notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        for name, samples in rows.items():
            several = sum(len(texts) > 1 for texts in samples.references or ())
            if several:
                notes.append(
                    f"{several:,} of {len(samples):,} pairs of {name} have several targets: the first is learned"
                )
        return Splits(rows["train"], rows.get("val"), rows.get("test"), [], notes)

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without targets."""
        if self.predict_file is None:
            return None
        if not self.generate_samples:
            raise UserError("data.generate_samples", "is 0, so nothing would be predicted", "set it to 1 or more")
        if Path(self.predict_file).suffix.lower() in FORMATS:
            table = with_languages(pair_table(self.predict_file, "data.predict", self.skips, self.header))
            return PairRows(sources_of(table, self.columns[0]), None, table, self.source_prefix)
        table = parallel_table(self.predict_file, None, "data.predict", self.skips)
        return PairRows(sources_of(table, SOURCE), None, table, self.source_prefix)

    def _table(self, split: str, files: str | list[str]) -> Table:
        key = f"data.{split}"
        if isinstance(files, str):
            if Path(files).suffix.lower() not in FORMATS:
                raise UserError(
                    key, f"{files} is one text file", f"name two, [SOURCE, TARGET], or a table ({', '.join(FORMATS)})"
                )
            return pair_table(files, key, self.skips, self.header)
        if len(files) != 2:
            raise UserError(key, f"lists {len(files)} files", "name two text files, [SOURCE, TARGET]")
        if not self.header:
            raise UserError("data.header", "false has no effect on text files, which have none", "leave it out")
        if self.columns != (SOURCE, TARGET):
            raise UserError(
                "data.source_column", "has no effect on text files, which have no columns", "leave the columns out"
            )
        return parallel_table(files[0], files[1], key, self.skips)

    def _rows_of(self, table: Table) -> PairRows:
        source, target = self.columns
        table = with_languages(table)
        return PairRows(sources_of(table, source), references_of(table, target), table, self.source_prefix)

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Returns 0: the network knows the size of its vocabulary."""
        return 0

    def prepare(self, spec: InputSpec) -> InputView:
        """Tokenises sources and targets."""
        most = self.max_target_length
        if most is not None and spec.max_length is not None and most > spec.max_length:
            raise UserError(
                "data.max_target_length",
                f"{most} is more than the {spec.max_length} tokens that the network takes",
                f"set it to {spec.max_length} or less",
            )
        if most is not None and most < 2:
            raise UserError("data.max_target_length", "1 leaves no room for text beside the end token", "set it higher")
        languages = tuple(getattr(spec.tokenizer, name, None) for name in ("src_lang", "tgt_lang"))
        for samples in self._all_samples():
            assert isinstance(samples, PairRows)
            samples.limit_targets(most or spec.max_length, languages)
        view = super().prepare(spec)
        for name, split in self.splits.items():
            assert isinstance(split.samples, PairRows)
            if len(split.samples.cut_targets):
                self.cut_targets[name] = float(split.samples.cut_targets[split.rows].mean())
        return view

    def describe(self) -> str:
        """Adds the shares of target texts that were truncated."""
        cut = [f"{share:.1%} of {name}" for name, share in self.cut_targets.items() if share > 0]
        line = super().describe()
        if not cut:
            return line
        most = self.max_target_length or (self.spec.max_length if self.spec is not None else None)
        return f"{line}; targets truncated to {most} tokens: {', '.join(cut)}"


def scores(metrics: list[str] | None, generate_samples: int) -> tuple[str, ...]:
    """The metrics to measure, those of tokens first; none to leave it to the task."""
    named = metrics if metrics is not None else list(TRANSLATION) if generate_samples else []
    for name in named:
        if name not in Seq2Seq.metrics:
            known = ", ".join(TEXT_METRICS)
            raise UserError(
                "data.metrics", f"'{name}' is unknown{nearest(name, Seq2Seq.metrics)}", f"use one of {known}"
            )
        if name in TEXT_METRICS and not generate_samples:
            raise UserError(
                "data.metrics", f"{name} scores generated texts, and data.generate_samples is 0", "set that higher"
            )
    return tuple(dict.fromkeys([*Seq2Seq.default_metrics, *named])) if named else ()
