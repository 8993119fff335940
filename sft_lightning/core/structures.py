"""Structures that the packages share: batches, task descriptions, network outputs, and how inputs are prepared."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from sft_lightning.core.box_reader import Reader
from sft_lightning.core.errors import UserError


class Rows:
    """A batch's row numbers, on the host: iterable, with a length.

    At each step Lightning walks through the elements of lists and tuples, but not of this class.
    """

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __getitem__(self, at: int) -> int:
        return self._numbers[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows | list | tuple) and self._numbers == tuple(other)

    def __hash__(self) -> int:
        return hash(self._numbers)

    def __repr__(self) -> str:
        return f"Rows({list(self._numbers)})"


class Texts:
    """A batch's texts, on the host: iterable, with a length. As with `Rows`, Lightning does not walk through them.

    Args:
        texts: The texts, or one tuple of texts for each sample.
    """

    __slots__ = ("_texts",)

    def __init__(self, texts: Iterable[Any]) -> None:
        self._texts = tuple(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._texts)

    def __getitem__(self, at: int) -> Any:
        return self._texts[at]

    def __repr__(self) -> str:
        return f"Texts({list(self._texts)})"


Batch = dict[str, Any]
"""One micro-batch.

`x`: dict of network inputs, tensors with B rows; `y`: targets as the task reads them, absent for unlabelled data;
`select`: bool `[B]`, `[B, T]` or `[B, K, T]`, present if only some rows or positions count; the features have these dimensions;
`real`: bool `[B]`, present if some samples are fillers, which never count;
`prompt`: dict of network inputs, tensors with B rows, from which the network is to generate, and `references`: `Texts` with a
tuple of right texts for each of the B samples; present if texts are generated for this batch;
`bytes`: `[B]` int64, the UTF-8 bytes of the text that each sample's items are tokens of, 0 for fillers; present if known;
`covered`: bool `[B, C]`, which labels each sample's annotation speaks of, present if that may be some of them alone;
`beside`: `Texts` with what the task reads on the host about each of the B samples; present in evaluation, if samples have it;
`index`: `[B]` int64, the samples' row numbers; `rows`: the same as `Rows`, on the host; `count`: int N, known on the host.

N is the number of positions that `select` marks. It is the number of samples that are not fillers without `select`, and if
each sample is one item (`Samples.one_item_each`). A sample with up to K rows of input, such as a question with its choices,
has inputs `[B, K, T]`; rows that it lacks are padding alone.
"""


OPTIONAL = ("scheme", "weights", "focal", "known", "frame_seconds")
"""Entries of a task's plain values that are there only if they are set"""


@dataclass(frozen=True)
class TaskInfo:
    """Describes what is predicted, as plain values. Checkpoints and exports contain it, so that they work without data."""

    name: str
    num_outputs: int
    labels: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    scheme: str = ""
    """Scheme of the tags of entities, such as IOB1, empty if the labels tell it; 'softmax' for detectors whose class outputs
    are of one softmax, whose last is of no object"""
    weights: list[float] = field(default_factory=list)
    """Weight of each class in the loss, for tasks that support it; empty for 1"""
    focal: float = 0.0
    """Exponent γ of the focal loss, for tasks that support it"""
    known: int = 0
    """The first `known` labels are those of the pretrained network's output layer, which the network's head contains; 0 for
    a head of new labels alone"""
    frame_seconds: float = 0.0
    """Seconds from one frame of a sound to the next, for tasks that write frame by frame; 0 if unknown"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the scheme and the settings of the loss only if they are set."""
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value}

    @staticmethod
    def of(value: "TaskInfo | Mapping[str, Any]") -> "TaskInfo":
        if isinstance(value, TaskInfo):
            return value
        try:
            info = TaskInfo(**dict(value))
        except (TypeError, ValueError):
            raise UserError(
                "task", f"must have name and num_outputs, and may have labels and metrics, got {value}"
            ) from None
        lists = all(isinstance(held, list) for held in (info.labels, info.metrics))
        if not isinstance(info.name, str) or not isinstance(info.num_outputs, int) or info.num_outputs < 0 or not lists:
            raise UserError("task", f"name must be text, num_outputs a number, labels and metrics lists, got {value}")
        if not isinstance(info.scheme, str):
            raise UserError("task", f"scheme must be text, got {info.scheme!r}")
        numbers = isinstance(info.focal, int | float) and isinstance(info.frame_seconds, int | float)
        if not isinstance(info.weights, list) or not numbers:
            raise UserError("task", f"weights must be a list, focal and frame_seconds numbers, got {value}")
        if not isinstance(info.known, int) or not 0 <= info.known <= info.num_outputs:
            raise UserError("task", f"known must be a number from 0 to num_outputs, got {value}")
        return info


class Output(NamedTuple):
    """The result of one encoder pass. N items, C outputs, D and E features, S source outputs.

    For pixels, tensors are maps of R images: `[R, h, w, C]` and so on, at the network's own resolution.
    """

    logits: Tensor
    """`[N, C]`"""
    features: Tensor
    """`[N, D]`, the input of the heads"""
    source_logits: Tensor | None = None
    """`[N, S]` from the kept source head, or None without one; in a joint head, from its old rows"""
    below_new: Tensor | None = None
    """`[N, E]`, the input of the first new layer inside the encoder (`[N, 0]` if nothing pretrained lies below it); None if
    the encoder has no new layer"""
    generated: Texts | None = None
    """B generated texts, fillers included; None if none were generated for this batch"""
    reader: Reader | None = None
    """Reads `logits` and `source_logits` of a detector; None for other networks"""
    words: Texts | None = None
    """For each of the B generated texts a list of its words with `start` and `end` in seconds; None if they have no times"""

    @property
    def pretrained_features(self) -> Tensor:
        """`[N, E]`, the last features that depend on pretrained weights alone: `features` if the whole encoder is pretrained.

        These can be compared between teacher and student.
        """
        return self.features if self.below_new is None else self.below_new

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(t.numel() * t.element_size() for t in self if isinstance(t, Tensor))


class Loss(NamedTuple):
    """A task's loss on a batch."""

    total: Tensor
    """Sum over items: a scalar with gradient, 0 without items"""
    n: float
    """Number of items, or the sum of their weights if items have weights"""


class Items(NamedTuple):
    """The rows on which student and teacher are compared, for an anchor or for the metrics of drift."""

    features: Tensor
    """`[M, E]`, the last features that depend on pretrained weights alone; E = 0 if there are none. M > N if an item has
    several rows, such as a question its choices or its tokens"""
    logits: Tensor
    """`[N, C]`"""
    source_logits: Tensor | None
    """`[N, S]` from the kept source head; None without one"""
    n: int
    """Number of items"""
    weights: Tensor | None = None
    """`[M]` weights of the rows of `features`: an item's distance is the weighted sum over its rows; None for weights of 1"""
    output_weights: Tensor | None = None
    """`[K]` weights of the rows of `logits` and `source_logits`, if these are K places of maps instead of N items; None for
    weights of 1"""


class View(Protocol):
    """Turns a stored image, uint8 `[C, H, W]`, into the network's view of it, uint8 `[C, height, width]`."""

    @property
    def size(self) -> tuple[int, int]:
        """height, width in pixels"""

    def __call__(self, image: Tensor) -> Tensor: ...

    def to_dict(self) -> dict[str, Any]:
        """Returns the view as plain values."""


@dataclass
class InputSpec:
    """The inputs that a network needs. `SFTDataModule.settle` prepares the samples accordingly.

    The data chooses unset fields, and returns all choices as an `InputView`.
    """

    kind: str
    """'image', 'masks' (images with a mask each), 'boxes' (images with boxes of objects), 'audio', 'speech' (sounds with
    transcripts), 'text', 'tokens' (text for language modelling), 'words' (sentences with a tag for each word), 'choices'
    (questions with choices), 'questions' (questions with a context, in windows) or 'pairs' (texts with target texts)"""
    size: tuple[int, int] | None = None
    """height, width in pixels"""
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """per channel, of pixels in [0, 1]; in the order that the network sees"""
    view: View | None = None
    """resizing and cropping as in the pretrained network's own library; None for that of the data"""
    reverse_channels: bool = False
    """whether channels come as blue, green, red"""
    tokenizer: Any = None
    """callable like a tokenizer of transformers"""
    max_length: int | None = None
    """in tokens"""
    network: str = ""
    """the network's name, for messages"""
    sample_rate: int | None = None
    """of sounds, in samples per second"""
    max_seconds: float | None = None
    """seconds of a sound that the network takes; None for no limit"""
    extract: Callable[[Sequence[Any]], dict[str, Tensor]] | None = None
    """makes the network's inputs, B rows, of B sounds `[T]` at `sample_rate`; None for waveforms padded with zeros"""
    frames: Callable[[Tensor], Tensor] | None = None
    """number of frames, int64 `[B]`, that the network makes of sounds of so many samples; None if it is not asked"""
    why_not_packed: Callable[[], str] | None = None
    """runs the network to say why it cannot take rows of several samples, empty if it can; None if it never can"""


@dataclass(frozen=True)
class InputView:
    """How the data feeds a network, as plain values: an `InputSpec` with every choice made."""

    size: tuple[int, int] | None = None
    """height, width in pixels; None for texts, and if images keep their own"""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """per channel, of pixels in [0, 1]; in the order that the network sees"""
    view: dict[str, Any] | None = None
    """`View.to_dict()`, if the pretrained network's own library resizes and crops"""
    reverse_channels: bool = False
    """whether channels come as blue, green, red"""
    shape: tuple[int, int, int] | None = None
    """channels, height, width of a sample as the network sees it; None for texts, and if no sample can be read"""
    size_of_data: bool = False
    """whether the data's `image_size` set the size"""
    max_length: int | None = None
    """number of tokens at which samples are truncated"""
    sample_rate: int | None = None
    """of sounds, in samples per second; None for other samples"""
    window: tuple[int, int] | None = None
    """height and width of windows in which larger images are seen, and pixels from one to the next; None for whole images"""
    ends: tuple[int, ...] | None = None
    """tokens that end the training answers of a language model; None if there were no answers"""

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry about inputs for config.json of an export; empty for texts."""
        if self.sample_rate is not None:
            return {"sample_rate": self.sample_rate}
        if self.mean is None and self.std is None and self.size is None:
            return {}
        lists = {"mean": self.mean, "std": self.std, "size": self.size}
        values: dict[str, Any] = {name: None if held is None else list(held) for name, held in lists.items()}
        if self.view is not None:
            values["view"] = self.view
        if self.reverse_channels:
            values["reverse_channels"] = True
        if self.window is not None:
            values["window"] = list(self.window)
        return values

    @staticmethod
    def of(values: Mapping[str, Any] | None) -> "InputView":
        """Makes the view from the values of `to_dict`. Raises UserError for damaged values."""
        values = values or {}
        try:
            values = dict(values)
            mean, std, size = (tuple(values[n]) if values.get(n) else None for n in ("mean", "std", "size"))
        except (TypeError, ValueError):
            raise UserError(
                "network.pretrained",
                f"sft_lightning.input of config.json: mean, std and size must be lists, got {values!r:.80}",
            ) from None
        window = values.get("window")
        if window is not None and (
            not isinstance(window, list) or len(window) != 2 or not all(type(n) is int and n > 0 for n in window)
        ):
            raise UserError(
                "network.pretrained",
                f"sft_lightning.input of config.json: window must be two numbers of pixels, got {window!r:.80}",
            )
        return InputView(
            size,
            mean,
            std,
            values.get("view"),
            bool(values.get("reverse_channels")),
            sample_rate=values.get("sample_rate"),
            window=None if window is None else (window[0], window[1]),
        )
