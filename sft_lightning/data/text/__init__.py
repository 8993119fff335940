"""Text data sets."""

from sft_lightning.data.text.ag_news import AGNews
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.glue import GLUE
from sft_lightning.data.text.imdb import IMDB
from sft_lightning.data.text.instructions import Instructions
from sft_lightning.data.text.plain_text import PlainText
from sft_lightning.data.text.table import TextTable
from sft_lightning.data.text.trec import TREC

__all__ = ["GLUE", "IMDB", "TREC", "AGNews", "Instructions", "PlainText", "TextData", "TextRows", "TextTable"]
