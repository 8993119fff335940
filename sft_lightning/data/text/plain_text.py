"""Plain text for language models to continue pretraining on, or to measure what they keep of general language."""

from pathlib import Path
from typing import Annotated, Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.base import Split, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.documents import Blocks, Documents, start_and_end
from sft_lightning.data.text.files import FORMATS, Table, check_hub, hub_tables, read_table
from sft_lightning.data.text.text_file import Division, read_documents

PLAIN = (".txt", ".text", ".md")
LONGEST = 1024
"""Tokens of a block, unless data.max_length or the network's limit says otherwise"""


class PlainText(TokenData):
    """Documents of plain text, from .txt files, tables with a column of texts (CSV, TSV, JSON, JSONL, parquet), or the hub.

    A document becomes `start, text, EOS`. The start is the tokenizer's BOS, or EOS for a tokenizer without BOS, and is not
    predicted. All other tokens are predicted, each once. A tokenizer with neither leaves the first token of each document
    unpredicted, which `describe()` counts. Long documents are cut into blocks of max_length tokens, and the last block of a
    document keeps its length: no token is lost. A block that continues a document begins with the last `overlap` tokens
    of the block before. They are context, and are not predicted again; the next token sees them and nothing earlier.

    A sample is a block: batch_size, validation limits and `n/*` count blocks. Validation and test samples are set aside by
    whole documents, and train_fraction and folds draw whole documents. Bits per byte are the loss summed over all tokens,
    in bits, divided by the UTF-8 bytes of the text that these tokens stand for.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training documents.
        val: File with the validation documents; default a share of the training documents.
        test: File with the test documents.
        documents: How a .txt file is divided into documents: blank_lines, lines (each is one), or file (it is one); default
            blank_lines. If it is set, files with other suffixes than those of tables are plain text too. Line ends CR LF
            become LF.
        text_column: Column of a table with the texts, one document each; default text.
        overlap: Tokens of context that a block repeats from the block before it.
        end_of_text: Whether EOS at the end of each document is predicted.
        packing: Whether samples of a micro-batch share rows of up to max_length tokens. Each sees itself alone, so that
            nothing but the padding changes. Refused for a network that cannot keep the samples of a row apart.
        max_length: Most tokens of a block; default 1,024, or the network's limit if that is smaller.
        group_by_length: Make batches of samples of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "tokens"
    task_name = "causal_lm"
    metrics = ("perplexity", "bits_per_byte", "token_accuracy")

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        documents: Division | None = None,
        text_column: str | None = None,
        overlap: Annotated[int, Range(1)] = 1,
        end_of_text: bool = True,
        packing: bool = False,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(PlainText.__init__, locals())
        self.path, self.config, self.files = path, config, {"train": train, "val": val, "test": test}
        check_hub(self.path, self.config, self.files)
        self.documents, self.text_column = documents, text_column
        self.overlap, self.end_of_text, self.packing = overlap, end_of_text, packing
        self._whole: dict[str, Split] = {}
        """The splits as documents, once they are cut into blocks"""
        self._said: list[str] = []
        """How the documents were cut"""
        if (path is None) == (train is None):
            raise UserError("data", "PlainText needs one of train (a file) and path (a data set on the hub)", "set one")
        plain = [f for f in self.files.values() if f is not None and is_plain(f, documents is not None)]
        tables = path is not None or len(plain) < sum(f is not None for f in self.files.values())
        if documents is not None and not plain:
            raise UserError("data.documents", "has no effect, because all files are tables", "leave it out")
        if text_column is not None and not tables:
            raise UserError("data.text_column", "has no effect, because no file is a table", "leave it out")

    def load(self) -> Splits:
        tables = self._tables()
        column = self.text_column or "text"
        made = {name: Documents(table, column, "data.text_column", self.end_of_text) for name, table in tables.items()}
        if len(made["train"]) == 1 and "val" not in made:
            plain = is_plain(self.files["train"] or "", self.documents is not None)
            other = ", or set data.documents to lines" if plain else ""
            raise UserError(
                "data.val",
                f"{tables['train'].where} is 1 document, so that none can be set aside to validate on",
                f"name a file with validation documents{other}",
            )
        notes = [note for table in tables.values() for note in table.notes]
        return Splits(made["train"], made.get("val"), made.get("test"), notes=notes)

    def _tables(self) -> dict[str, Table]:
        if self.path is not None:
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another one"
                )
            return {n: hub[t] for n, t in (("train", "train"), ("val", "validation"), ("test", "test")) if t in hub}
        read = {}
        for name, file in self.files.items():
            if file is not None and is_plain(file, self.documents is not None):
                read[name] = read_documents(file, f"data.{name}", self.documents or "blank_lines", self.skips)
                read[name].columns = {self.text_column or "text": read[name].columns["text"]}
            elif file is not None:
                if Path(file).suffix.lower() not in FORMATS and Path(file).expanduser().is_file():
                    fix = f"use one of {', '.join((*PLAIN, *FORMATS))}, or set data.documents to read it as plain text"
                    raise UserError(f"data.{name}", f"{file} has an unknown suffix", fix)
                read[name] = read_table(file, f"data.{name}", self.skips)
        return divided(read, self.text_column)

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Returns 0: the network knows the size of its vocabulary."""
        return 0

    def prepare(self, spec: InputSpec) -> InputView:
        """Tokenises the documents, and cuts them into blocks, which are the samples from then on."""
        self._whole = self._whole or dict(self.splits)
        self.splits = dict(self._whole)
        view = super().prepare(spec)
        made: dict[int, Blocks] = {}
        for name, split in self._whole.items():
            whole = split.samples
            assert isinstance(whole, Documents)
            if id(whole) not in made:
                made[id(whole)] = blocks = Blocks(whole, self.overlap)
                blocks.skips, blocks.group_by_length, blocks.packing = whole.skips, self.group_by_length, self.packing
                blocks.use(whole.tokenizer, whole.max_length, whole.multiple)
                blocks.ready()
            rows = made[id(whole)].rows_of(split.rows)
            if not len(rows):
                raise UserError("data", f"the documents of {name} have no token to predict", "use other documents")
            self.splits[name] = Split(made[id(whole)], rows, None, split.train, name)
        self._said = self._cut(spec, view)
        self.total_train = len(self.splits["train"]) if "train" in self.splits else 0
        return view

    def _length(self, spec: InputSpec) -> int:
        length = super()._length(spec) if self.max_length is not None else min(LONGEST, spec.max_length or LONGEST)
        assert length is not None
        if length <= self.overlap:
            problem = f"{self.overlap} tokens of context fill a block of data.max_length {length}"
            raise UserError("data.overlap", problem, "set it lower")
        return length

    def _cut(self, spec: InputSpec, view: InputView) -> list[str]:
        """Describes how the documents were cut, and what is not predicted."""
        parts = [f"{len(split):,} {name}" for name, split in self._whole.items()]
        said = [f"samples are blocks of at most {view.max_length:,} tokens, of documents: {', '.join(parts)}"]
        for name, split in self._whole.items():
            whole = split.samples
            assert isinstance(whole, Documents)
            if silent := int((whole.ids.lengths[split.rows] < 2).sum()):
                said.append(f"{plural(silent, 'document')} of {name} without a token to predict")
        start, end = start_and_end(spec.tokenizer)
        if start is None:
            said.append("the first token of each document is not predicted: the tokenizer has neither BOS nor EOS")
        if end is None and self.end_of_text:
            said.append("the ends of documents are not predicted: the tokenizer has no EOS")
        return said

    def describe(self) -> str:
        """Adds how the documents were cut, and what is not predicted."""
        return "; ".join([super().describe(), *self._said])


def is_plain(file: str, divided: bool = False) -> bool:
    """Whether a file is read as plain text, and not as a table: by its suffix, or if `data.documents` says how to divide it."""
    suffix = Path(file).suffix.lower()
    return suffix in PLAIN or (divided and suffix not in FORMATS)
