"""One sample of a request, and how those of each kind become batches: as in `predict`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import inf
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, InputSpec, TaskInfo
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.sampler import Key
from sft_lightning.data.split import Split
from sft_lightning.data.text.own_texts import add_words
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.data.text.tokens import TextRows, Tokens
from sft_lightning.data.vision.encoded import DAMAGE, EncodedImages
from sft_lightning.networks.base import Network

MOST_TOKENS = 1 << 14
"""Tokens of a batch, padding included, if the network takes no more in one text"""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Images that are read; Pillow starts another program for some others"""
MOST_PIXELS = 50_000_000
"""Pixels of an image, as it comes and as it is resized"""
MOST_SEEN = 8_000_000
"""Pixels of a batch as the network sees it, and of an image that is not resized"""


@dataclass(frozen=True)
class Item:
    """One sample of a request: a text, perhaps with a second one, a list of words, or an encoded image."""

    name: str
    """Its name in messages, such as `texts[0]`"""
    text: str | None = None
    pair: str | None = None
    words: tuple[str, ...] | None = None
    image: bytes | None = None


@dataclass
class Prepared:
    """A batch of some of the items, and what only the samples know of each."""

    at: list[int]
    """The items' numbers"""
    batch: Batch
    samples: Tokens | None = None
    rows: Sequence[int] = ()
    truncated: Sequence[bool] = ()

    def completed(self, number: int, prediction: dict[str, Any], task: TaskInfo) -> dict[str, Any]:
        """Adds places in the text to a prediction, as `predict` does."""
        if self.samples is None:
            return prediction
        held = self.samples.completed(self.rows[number], prediction, task)
        return {name: value for name, value in held.items() if name != "row"}


Found = Iterator[Prepared | tuple[int, UserError]]
"""Batches, and the numbers of items that cannot be read, with the reasons"""


class Reader(ABC):
    """Turns items into batches, as the data module of the run does."""

    kind: ClassVar[str]
    takes: ClassVar[str]
    """Name of the field of a request"""
    unsized: bool = False
    """Whether samples keep a size of their own that the network may refuse"""

    @abstractmethod
    def check(self, item: Item) -> None:
        """Raises UserError for an item of the wrong form, before it waits in the queue."""

    @abstractmethod
    def batches(self, items: Sequence[Item]) -> Found:
        """The items in batches that fit into memory, in any order."""

    @abstractmethod
    def example(self) -> Item:
        """An item for the first pass."""


class TextReader(Reader):
    """Texts and pairs of texts, tokenised as for the run."""

    kind, takes = "text", "texts"

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

    def cut(self, at: list[int], items: Sequence[Item], samples: Tokens, bad: Mapping[int, str] | None = None) -> Found:
        """Batches of samples of similar length, with at most `most_tokens` tokens."""
        samples.use(self.tokenizer, self.max_length, self.multiple)
        samples.ready()
        part: list[int] = []
        for row in np.argsort(samples.ids.lengths, kind="stable").tolist():
            tokens = int(samples.ids.lengths[row])
            if bad and row in bad:
                yield at[row], UserError("data", f"{items[at[row]].name} {bad[row]}")
            elif tokens > self.most_tokens:
                problem = f"{items[at[row]].name} has {tokens} tokens, and at most {self.most_tokens} are served"
                yield at[row], UserError("data", problem)
            else:
                if part and (len(part) + 1) * samples.width([row]) > self.most_tokens:
                    yield self.prepared(at, samples, part)
                    part = []
                part.append(row)
        if part:
            yield self.prepared(at, samples, part)

    def prepared(self, at: list[int], samples: Tokens, rows: list[int]) -> Prepared:
        """One batch."""
        batch = Split(samples, np.arange(len(samples)), None, False, "request").__getitems__([Key(r, 0) for r in rows])
        return Prepared([at[r] for r in rows], batch, samples, rows, [bool(samples.truncated[r]) for r in rows])

    def example(self) -> Item:
        return Item("example", "a text", "another one" if self.pairs else None)


class WordReader(TextReader):
    """Texts that are split into words, or lists of words, each of which gets a tag."""

    kind = "words"

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.split_words: SplitWords = arguments.get("split_words") or "punctuation"

    def check(self, item: Item) -> None:
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


class RequestImages(EncodedImages):
    """Images in memory, encoded."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__(None)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def open(self, row: int) -> BinaryIO:
        return BytesIO(self.items[row].image or b"")

    def key(self, row: int) -> str:
        return self.items[row].name

    def name(self, row: int) -> str:
        return self.items[row].name


class ImageReader(Reader):
    """Encoded images, seen as the run's data showed them to the network."""

    kind, takes = "image", "images"

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        spec, view = network.input_spec, network.input_view
        if view.mean is None or view.std is None:
            raise UserError("model", "config.json does not say how images are normalised", "export the run again")
        if (spec.view.to_dict() if view.view is not None and spec.view is not None else None) != view.view:
            raise UserError(
                "model", "the view of config.json and that of the network's own files differ", "export again"
            )
        self.size, self.own_view = view.size, spec.view if view.view is not None else None
        self.unsized = view.size is None
        self.channels = spec.channels or len(view.mean)
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) * 255 for v in (view.mean, view.std))
        self.reverse, self.spec = view.reverse_channels, spec

    def check(self, item: Item) -> None:
        if not item.image:
            raise UserError("data", f"{item.name} is empty")

    def batches(self, items: Sequence[Item]) -> Found:
        images = RequestImages(items)
        images.fit(self.size, self.channels, self.own_view)
        shapes: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for number, item in enumerate(items):
            try:
                self.check_pixels(item)
                seen = images.view(number)
                shapes.setdefault(tuple(seen.shape), []).append((number, seen))
            except BadSample as error:
                yield number, UserError("data", f"{item.name} cannot be read: {next(iter(error.rows.values()))}")
            except UserError as error:
                yield number, error
        for shape, same in shapes.items():
            most = max(1, MOST_SEEN // (shape[-2] * shape[-1]))
            for start in range(0, len(same), most):
                yield self.prepared(same[start : start + most])

    def prepared(self, seen: Sequence[tuple[int, Tensor]]) -> Prepared:
        """One batch of images of one shape."""
        image = torch.stack([pixels for _, pixels in seen])
        image = image.flip(1) if self.reverse else image
        at = [number for number, _ in seen]
        x = {"image": (image.to(torch.float32) - self.mean) / self.std}
        return Prepared(at, {"x": x, "index": torch.tensor(at), "count": len(at)})

    def check_pixels(self, item: Item) -> None:
        """Raises UserError for an image that is too large, or becomes so when its shorter side is resized."""
        try:
            with Image.open(BytesIO(item.image or b""), formats=FORMATS) as image:
                width, height = image.size
        except DAMAGE:
            problem = f"{item.name} is damaged, too large, or not an image of {', '.join(FORMATS)}"
            raise UserError("data", problem) from None
        short, long = min(width, height), max(width, height)
        wanted = float(max(getattr(self.own_view, "resize", 0), *self.size)) if self.size and short else 0.0
        resized = wanted**2 * long / short if short else inf
        most = MOST_SEEN if self.unsized else MOST_PIXELS
        if max(width * height, resized) > most:
            counted = ", counted after its shorter side is resized" if resized > width * height else ""
            problem = f"{item.name} has {width}×{height} pixels, and at most {most:,} are served{counted}"
            raise UserError("data", problem)

    def example(self) -> Item:
        height, width = self.size or (8, 8)
        held = BytesIO()
        Image.new("L" if self.channels == 1 else "RGB", (width, height)).save(held, "PNG")
        return Item("example", image=held.getvalue())


READERS: dict[str, type[TextReader] | type[ImageReader]] = {r.kind: r for r in (TextReader, WordReader, ImageReader)}


def reader_of(spec: InputSpec) -> type[TextReader] | type[ImageReader]:
    """The reader for a network's input."""
    return READERS[spec.kind]
