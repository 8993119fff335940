"""Sentences with one tag for each word in columns: named entities, parts of speech, chunks."""

from typing import Any

from sft_lightning.data.text.sentences import Columns, Sentences
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged import Scheme, TaggedData


class CoNLL(TaggedData):
    """Words with one tag each (named entities, parts of speech, chunks) from files in columns.

    Tags in one of the schemes IOB1, IOB2 (BIO), IOBES and BILOU are measured by entities (precision, recall, F1 as seqeval and
    conlleval define them), others by words. The training tags tell the scheme.

    Args:
        train: File with the training sentences.
        val: File with the validation sentences; default a share of the training sentences.
        test: File with the test sentences.
        predict: File to predict on; it needs no tags, and predicting needs no training data. It may also hold texts, one a
            line (.txt) or in a table (.csv, .tsv, .json, .jsonl, .parquet).
        word_column: Column of the word, from 0; negative counts from the right.
        tag_column: Column of the tag, from 0; negative counts from the right.
        labels: All tags in order; default those of the training sentences, O first, then sorted.
        scheme: Scheme of the tags of entities; default the one recognised.
        text_column: Column of the texts to predict on; default text.
        split_words: Where texts to predict on are split into words: at white space and punctuation, or at white space alone;
            default punctuation.
        max_length: Most tokens of a sentence, special ones included; words beyond it are counted, and are in no loss and no
            metric; default the network's.
        group_by_length: Make batches of sentences of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits. `shots_per_class` counts sentences with each type of entity.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        word_column: int = 0,
        tag_column: int = -1,
        labels: list[str] | None = None,
        scheme: Scheme | None = None,
        text_column: str | None = None,
        split_words: SplitWords | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train, val, test, predict, labels, scheme, text_column, split_words, max_length, group_by_length, **kwargs
        )
        self.columns = (word_column, tag_column)

    def read(self, split: str, file: str, tagged: bool = True) -> Sentences:
        """Reads columns; with `on_bad_sample: skip`, a line that cannot be read leaves its sentence out."""
        return Columns(file, f"data.{split}", self.columns, tagged, self.skips)
