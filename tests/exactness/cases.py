"""One tiny case at least for every task, to be tuned by every variant: what the tests of this folder run over.

A new task belongs into CASES, a new variant into VARIANTS of tests/support.py; `test_cases.py` fails until they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import (
    CoNLL,
    Instructions,
    MultipleChoice,
    PlainText,
    SFTDataModule,
    SQuAD,
    TextPairs,
)
from sft_lightning.data.audio.audio_table import AudioTable
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.audio.speech import Speech
from sft_lightning.data.audio.transcribed import Transcribed
from sft_lightning.data.base import Splits
from sft_lightning.data.extend import Extend
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.choice_table import Choices
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.documents import Documents
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.multiple_choice import ChoiceRows
from sft_lightning.data.text.pair_rows import PairRows
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.squad_files import Answer
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.data.vision.base import ArrayImages
from sft_lightning.data.vision.boxed import Boxed
from sft_lightning.data.vision.boxes import Box, Boxes
from sft_lightning.data.vision.detection import DetectionData
from sft_lightning.data.vision.masked import Masked
from sft_lightning.data.vision.masks import UNLABELLED
from sft_lightning.data.vision.segmentation import SegmentationData
from sft_lightning.modules import SFTModule
from sft_lightning.networks import (
    MLP,
    FasterRCNN,
    MelCNN,
    TimmDetection,
    TransformersChoice,
    TransformersCTC,
    TransformersLM,
    TransformersQA,
    TransformersSeq2Seq,
    TransformersSpeech,
    TransformersText,
    TransformersTokens,
    UNet,
    build_network,
    spec,
)
from sft_lightning.networks.spec import Spec
from sft_lightning.tasks.answer_scores import OUTPUTS_OR_NONE
from tests.data.audio_files import RATE, beep, write_sound
from tests.exactness.tokenizers import fixed_words, gpt2, llama3
from tests.networks.tiny import SENTENCES, bart_pieces, tiny_folder
from tests.networks.tiny_audio import MASKED, tiny_ctc, tiny_whisper
from tests.support import HIDDEN, NEW, OLD, ON_OWN_CASE, VARIANTS, WITH_STAGES, FewDigits, NormNet

Sizes = tuple[int, int, int]
WORDS = " ".join(SENTENCES[:6]).split()
MELS = {"sample_rate": RATE, "mels": 8, "channels": [4, 6], "hidden": 8}


# ---- texts in memory, of lengths that differ widely ----


def few_texts(count: int, seed: int) -> list[str]:
    """1 to 12 words each."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 13))) for _ in range(count)]


class FewTexts(TextData):
    """Random texts with a class or a value each: `sizes` for train, val and test.

    Args:
        sizes: Rows of each split.
        labels: Classes; none for a regression.
        **kwargs: As TextData.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = ("no", "yes"), **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 8, "seed": 0, **kwargs})
        self.sizes, self.labels = sizes, list(labels)
        self.task_name = "classification" if labels else "regression"

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            texts = few_texts(count, seed=number)
            rng = np.random.default_rng(10 + number)
            drawn = rng.permutation(np.arange(count) % max(1, len(self.labels)))  # every class from the third row on
            values = rng.normal(1.0, 2.0, size=count).astype(np.float32)
            parts.append(TextRows(texts, None, drawn.astype(np.int64) if self.labels else values))
        return Splits(*parts, labels=self.labels)


class FewAnswers(Instructions):
    """Random prompts with completions, in which the share of supervised tokens differs widely.

    Args:
        sizes: Rows of each split.
        **kwargs: As Instructions.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(**{"path": "in memory", "batch_size": 8, "seed": 0, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            said = {"prompt": few_texts(count, seed=20 + number), "completion": few_texts(count, seed=30 + number)}
            parts.append(InstructionRows(Table(f"answers {number}", said)))
        return Splits(*parts)


class FewPages(PlainText):
    """Random documents, each in one block, and rows that several of them share.

    Args:
        sizes: Documents of each split.
        **kwargs: As PlainText.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(**{"path": "in memory", "packing": True, "batch_size": 8, "seed": 0, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        texts = [{"text": few_texts(count, seed=60 + number)} for number, count in enumerate(self.sizes)]
        return Splits(*(Documents(Table("pages", said), "text", "data.text_column", True) for said in texts))


class FewPairs(TextPairs):
    """Random source texts with target texts of other lengths.

    Args:
        sizes: Rows of each split.
        **kwargs: As TextPairs.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 8, "seed": 0, "generate_samples": 0, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            sources, targets = few_texts(count, seed=60 + number), few_texts(count, seed=70 + number)
            parts.append(
                PairRows(sources, [(text,) for text in targets], Table(f"pairs {number}", {"source": sources}))
            )
        return Splits(*parts)


TAGS, OLD_TAGS = ("O", "B-x", "I-x", "B-y"), ("O", "B-z", "I-z")


class FewTags(CoNLL):
    """Random words with random tags.

    Args:
        sizes: Sentences of each split.
        labels: Tags.
        **kwargs: As CoNLL.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = TAGS, **kwargs: Any) -> None:
        super().__init__(**{"train": "in memory", "batch_size": 8, "seed": 0, **kwargs})
        self.sizes, self.labels = sizes, list(labels)

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(50 + number)
            sentences = Sentences.of([text.split() for text in few_texts(count, seed=40 + number)], f"tags {number}")
            sentences.tags = [list(rng.choice(self.labels, size=len(words))) for words in sentences.words]
            parts.append(TaggedRows(sentences, self.labels))
        return Splits(*parts, labels=self.labels)


class FewSets(FewTexts):
    """Random texts with a random set of labels each, also none; nobody has the last label."""

    def __init__(
        self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = ("a", "b", "c", "d"), **kwargs: Any
    ) -> None:
        super().__init__(sizes, labels, **kwargs)
        self.task_name = "multi_label"

    def load(self) -> Splits:
        loaded = super().load()
        for number, samples in enumerate(loaded.each()):
            drawn = np.random.default_rng(60 + number).random((len(samples), len(self.labels))) < 0.4
            samples.targets = (drawn & (np.arange(len(self.labels)) < len(self.labels) - 1)).astype(np.uint8)
        return loaded


MOST_CHOICES = 4


class FewChoices(MultipleChoice):
    """Random questions with two to four random choices each.

    Args:
        sizes: Questions of each split.
        **kwargs: As MultipleChoice.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(**{"train": "in memory", "batch_size": 8, "seed": 0, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(80 + number)
            many = rng.integers(2, MOST_CHOICES + 1, size=count)
            texts = iter(few_texts(int(many.sum()), seed=90 + number))
            choices = [Choices([next(texts) for _ in range(k)]) for k in many]
            right = rng.integers(0, many)
            parts.append(ChoiceRows(few_texts(count, seed=70 + number), choices, right, Table(f"choices {number}", {})))
        return Splits(*parts)


class FewQuestions(SQuAD):
    """Random texts of one or several windows with random answers, of which a quarter is none.

    Args:
        sizes: Questions of each split.
        **kwargs: As SQuAD.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        window = {"max_length": 20, "doc_stride": 4}
        super().__init__(**{"train": "in memory", "batch_size": 8, "seed": 0, **window, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(70 + number)
            contexts = [
                f"{one} {other}"
                for one, other in zip(few_texts(count, 80 + number), few_texts(count, 90 + number), strict=True)
            ]
            questions = [" ".join(rng.choice(WORDS, size=rng.integers(1, 4))) for _ in contexts]
            answers = [[some_answer(context, rng)] if row % 4 else [] for row, context in enumerate(contexts)]
            parts.append(QuestionRows(questions, contexts, answers, Table(f"questions {number}", {}), self.doc_stride))
        return Splits(*parts, labels=OUTPUTS_OR_NONE)


class FewSounds(AudioTable):
    """Random sounds of lengths that differ widely, written to a folder, with a class each.

    Args:
        sizes: Rows of each split.
        labels: Classes.
        **kwargs: As AudioTable.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = ("low", "high"), **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 8, "seed": 0, "group_by_length": False, **kwargs})
        self.sizes, self.labels = sizes, list(labels)

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            paths = [few_sounds() / f"{(17 * number + row) % FEW}.wav" for row in range(count)]
            drawn = np.random.default_rng(10 + number).permutation(np.arange(count) % len(self.labels))
            parts.append(Sounds(paths, drawn.astype(np.int64), few_sounds()))
        return Splits(*parts, labels=self.labels)


class FewTranscripts(Speech):
    """Shorter sounds, with one or two random letters each.

    In single precision the log-probability of a long transcript is only known to 1e-5, which its gradient has as an error.

    Args:
        sizes: Rows of each split.
        **kwargs: As Speech.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(**{"task": "ctc", "batch_size": 8, "seed": 0, "group_by_length": False, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(20 + number)
            paths = [few_sounds(SHORT) / f"{(17 * number + row) % FEW}.wav" for row in range(count)]
            texts = [" ".join(rng.choice(list("abc"), size=rng.integers(1, 3))) for _ in paths]
            parts.append(Transcribed(paths, texts, few_sounds(SHORT), self.speech_task))
        return Splits(*parts)


class FewSpeech(FewTranscripts):
    """The same for networks that write one token after another; no texts are generated."""

    def __init__(self, sizes: Sizes = (40, 21, 21), **kwargs: Any) -> None:
        super().__init__(sizes, **{"task": "seq2seq", "generate_samples": 0, **kwargs})


FEW = 40
LONG, SHORT = 0.4, 0.16
"""Seconds"""


@cache
def few_sounds(longest: float = LONG) -> Path:
    """A folder of FEW sounds of 0.06 s up to the longest."""
    folder = Path(mkdtemp(prefix="sounds"))
    for number in range(FEW):
        seconds = float(np.random.default_rng(number).uniform(0.06, longest))
        write_sound(folder / f"{number}.wav", beep(200.0 + 20 * number, seconds, seed=number))
    return folder


def some_answer(context: str, rng: np.random.Generator) -> Answer:
    """Some words of a text that follow one another."""
    words = context.split()
    first = int(rng.integers(len(words)))
    text = " ".join(words[first : first + int(rng.integers(1, 4))])
    return Answer(len(" ".join([*words[:first], ""])), text)


class FewMarks(FewDigits):
    """Digits with a random set of labels each, also none; nobody has the last label."""

    task_name = "multi_label"
    labels = ("a", "b", "c", "d")

    def load(self) -> Splits:
        loaded = super().load()
        for number, samples in enumerate(loaded.each()):
            drawn = np.random.default_rng(60 + number).random((len(samples), len(self.labels))) < 0.4
            samples.targets = (drawn & (np.arange(len(self.labels)) < len(self.labels) - 1)).astype(np.uint8)
        loaded.labels = list(self.labels)
        return loaded


class FewPoints(FewDigits):
    """Digits with two random numbers each."""

    task_name = "regression"
    labels = ("x", "y")

    def load(self) -> Splits:
        loaded = super().load()
        for number, samples in enumerate(loaded.each()):
            values = np.random.default_rng(70 + number).normal(1.0, 2.0, (len(samples), len(self.labels)))
            samples.targets = values.astype(np.float32)
        loaded.labels = list(self.labels)
        return loaded


class MaskedArrays(Masked, ArrayImages):
    """Images and masks in memory."""

    def __init__(self, images: torch.Tensor, masks: torch.Tensor) -> None:
        ArrayImages.__init__(self, images, np.zeros(len(images)))
        self.targets, self.stored = None, masks

    def mask(self, row: int) -> torch.Tensor:
        return self.stored[row]


class FewMasks(SegmentationData):
    """Random images with random masks, in which the share of labelled pixels differs widely; nobody has the last class.

    Args:
        sizes: Images of each split.
        labels: Classes.
        **kwargs: As SegmentationData.
    """

    mean, std = (0.5,), (0.25,)

    def __init__(
        self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = ("a", "b", "c", "d"), **kwargs: Any
    ) -> None:
        super().__init__(**{"labels": list(labels), "batch_size": 8, "seed": 0, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts = []
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(100 + number)
            images = rng.integers(0, 256, (count, 1, 6, 6), dtype=np.uint8)
            masks = rng.integers(0, len(self.labels) - 1, (count, 6, 6), dtype=np.uint8)
            masks[rng.random(masks.shape) < rng.random((count, 1, 1)) * 0.9] = UNLABELLED
            masks[:, 0, 0] = 0  # each image has a label
            parts.append(MaskedArrays(torch.from_numpy(images), torch.from_numpy(masks)))
        return Splits(*parts, labels=list(self.labels))


class BoxedArrays(Boxed, ArrayImages):
    """Images in memory with boxes."""

    def __init__(self, images: torch.Tensor, truth: Boxes) -> None:
        ArrayImages.__init__(self, images, np.zeros(len(images)))
        self.targets, self.truth = None, truth

    def keep(self) -> None:
        """Nothing: images are small."""

    def views(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.stack([self.view(row) for row in rows])


class FewBoxes(DetectionData):
    """Random images with up to five random boxes, also none, and some of crowds; nobody has the last class.

    Args:
        sizes: Images of each split.
        labels: Classes.
        **kwargs: As DetectionData.
    """

    def __init__(self, sizes: Sizes = (40, 21, 21), labels: Sequence[str] = ("a", "b", "c"), **kwargs: Any) -> None:
        super().__init__(**{"labels": list(labels), "batch_size": 8, "seed": 0, "image_size": 32, **kwargs})
        self.sizes = sizes

    def load(self) -> Splits:
        parts, labels = [], list(self.labels or ())
        for number, count in enumerate(self.sizes):
            rng = np.random.default_rng(200 + number)
            images = rng.integers(0, 256, (count, 3, 40, 56), dtype=np.uint8)
            boxes = [[some_box(rng, labels[:-1]) for _ in range(rng.integers(0, 6))] for _ in range(count)]
            boxes[0] = boxes[0] or [some_box(rng, labels[:-1])]  # there is a box
            boxes[0][0] = boxes[0][0]._replace(ignored=False)
            parts.append(BoxedArrays(torch.from_numpy(images), Boxes.stored(boxes, [(40, 56)] * count, labels)))
        return Splits(*parts, labels=labels)


def some_box(rng: np.random.Generator, labels: Sequence[str]) -> Box:
    """A box in an image of 40×56 pixels."""
    width, height = rng.uniform(8, 30, 2)
    left, top = rng.uniform(0, 56 - width), rng.uniform(0, 40 - height)
    return Box(left, top, left + width, top + height, str(rng.choice(labels)), bool(rng.random() < 0.15))


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """A task with a network and data for it.

    `arguments` are a variant's arguments if the case needs others than VARIANTS has. `refused` holds, for each variant that
    cannot work here, the key and the values of the library's error: no variant is left out silently.
    """

    task: str
    pretrain: Callable[[Path], str]
    """Writes a pretrained network into a folder, and returns what `pretrained` has to be."""
    network: Callable[[str], Spec]
    data: Callable[..., SFTDataModule]
    """Takes `sizes` and a data module's settings."""
    source: Callable[..., SFTDataModule] | None = None
    """The same for the task the network was pretrained on, where it can still be asked."""
    new_head: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused_in_parts: tuple[str, ...] = ()
    """Variants that the library refuses here with parameters in parts (fsdp2)."""
    shifts: tuple[str, ...] = ()
    """Parameters that add the same to all scores of a softmax: the loss does not depend on them, only a penalty may."""


def _save_small(network: Spec) -> Callable[[Path], str]:
    def pretrain(folder: Path) -> str:
        torch.manual_seed(0)
        build_network(network, TaskInfo("classification", len(OLD), [str(n) for n in OLD])).save_pretrained(str(folder))
        return str(folder)

    return pretrain


def _save_tiny(kind: str, head: str, **settings: Any) -> Callable[[Path], str]:
    layers = {"gpt2": {"n_layer": 2}, "t5": {"num_layers": 1}}.get(kind, {"num_hidden_layers": 1})
    words = {"bert": fixed_words, "llama": llama3, "gpt2": gpt2, "t5": bart_pieces}[kind]
    return lambda folder: tiny_folder(folder, kind, head, tokenizer=words(), **layers, **settings)


def _text(**arguments: Any) -> Callable[[str], Spec]:
    return lambda folder: spec(TransformersText, pretrained=folder, **arguments)


def _language(folder: str) -> Spec:
    return spec(TransformersLM, pretrained=folder)


def _lora() -> Spec:
    return {"class_path": "LoRA", "init_args": {"r": 2, "alpha": 4.0}}


def _save_masks(folder: Path) -> str:
    torch.manual_seed(0)
    info = TaskInfo("semantic_segmentation", 3, ["old0", "old1", "old2"])
    build_network(spec(UNet, channels=1, widths=(8, 16)), info).save_pretrained(str(folder))
    return str(folder)


# Smooth activations: where a ReLU bends, the last bit of a weight decides whether a unit learns.
BOXED = {"name": "test_efficientnet", "width": 128, "convolutions": 1, "score_threshold": 0.0}


def _save_boxes(folder: Path) -> str:
    torch.manual_seed(0)
    info = TaskInfo("object_detection", 3, ["old0", "old1", "old2"])
    build_network(spec(TimmDetection, **BOXED), info).save_pretrained(str(folder))
    return str(folder)


class SmallFasterRCNN(FasterRCNN):
    """Faster R-CNN that sees a region as one place, not as 7×7."""

    def options(self) -> dict[str, Any]:
        from torchvision.models.detection.faster_rcnn import TwoMLPHead
        from torchvision.ops import MultiScaleRoIAlign

        pool = MultiScaleRoIAlign(["0", "1", "pool"], output_size=1, sampling_ratio=2)
        return {**super().options(), "box_roi_pool": pool, "box_head": TwoMLPHead(256, 1024)}


REGIONS = {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8, "score_threshold": 0.0}


def _save_regions(folder: Path) -> str:
    torch.manual_seed(0)
    info = TaskInfo("object_detection", 3, ["old0", "old1", "old2"])
    build_network(spec(SmallFasterRCNN, **REGIONS), info).save_pretrained(str(folder))
    return str(folder)


def _old_texts(**settings: Any) -> FewTexts:
    return FewTexts(labels=("old0", "old1", "old2"), **settings)


def _values(**settings: Any) -> FewTexts:
    return FewTexts(labels=(), **settings)


CASES: dict[str, Case] = {
    "images": Case(
        "classification",
        _save_small(spec(MLP, in_features=64, hidden=HIDDEN)),
        lambda folder: spec(MLP, in_features=64, hidden=HIDDEN, pretrained=folder),
        lambda **settings: FewDigits(digits=NEW, **settings),
        lambda **settings: FewDigits(digits=OLD, **settings),
    ),
    "images with norms": Case(
        "classification",
        _save_small(spec(NormNet)),
        lambda folder: spec(NormNet, pretrained=folder),
        lambda **settings: FewDigits(digits=NEW, **settings),
        lambda **settings: FewDigits(digits=OLD, **settings),
        settings={"freeze_batchnorm_stats": True},  # statistics of a batch depend on the batch, whoever splits it
    ),
    "images with sets of labels": Case(
        "multi_label",
        _save_small(spec(MLP, in_features=64, hidden=HIDDEN)),
        lambda folder: spec(MLP, in_features=64, hidden=HIDDEN, pretrained=folder),
        FewMarks,
        lambda **settings: FewDigits(digits=OLD, **settings),
    ),
    "images with numbers": Case(
        "regression",
        _save_small(spec(MLP, in_features=64, hidden=HIDDEN)),
        lambda folder: spec(MLP, in_features=64, hidden=HIDDEN, pretrained=folder),
        FewPoints,
        lambda **settings: FewDigits(digits=OLD, **settings),
    ),
    "sounds": Case(
        "classification",
        _save_small(spec(MelCNN, **MELS)),
        lambda folder: spec(MelCNN, **MELS, pretrained=folder),
        FewSounds,
        lambda **settings: FewSounds(labels=[str(n) for n in OLD], **settings),
    ),
    "transcripts": Case(
        "ctc",
        lambda folder: tiny_ctc(folder, num_hidden_layers=1, **MASKED),
        lambda folder: spec(TransformersCTC, pretrained=folder),
        FewTranscripts,
        FewTranscripts,
        new_head=False,
    ),
    "speech": Case(
        "seq2seq",
        tiny_whisper,
        lambda folder: spec(TransformersSpeech, pretrained=folder),
        FewSpeech,
        FewSpeech,
        new_head=False,
    ),
    "texts": Case("classification", _save_tiny("bert", "sequence"), _text(), FewTexts, _old_texts),
    "texts without a source head": Case(
        "classification",
        _save_tiny("bert", "none"),
        _text(pooling="mean"),
        FewTexts,
        refused={
            "distill-logits-kl": ("model.distance", "kl", "features"),
            "ewc": ("retention", "pretrained", "keep_source_head: false"),
        },
    ),
    "values": Case("regression", _save_tiny("bert", "sequence"), _text(), _values, _old_texts),
    "tags": Case(
        "token_classification",
        _save_tiny("bert", "tokens", id2label=dict(enumerate(OLD_TAGS))),
        lambda folder: spec(TransformersTokens, pretrained=folder),
        FewTags,
        lambda **settings: FewTags(labels=OLD_TAGS, **settings),
    ),
    "sets of labels": Case(
        "multi_label",
        _save_tiny("bert", "sequence", problem_type="multi_label_classification"),
        _text(),
        FewSets,
        lambda **settings: FewSets(labels=("old0", "old1", "old2"), **settings),
    ),
    "choices": Case(
        "multiple_choice",
        _save_tiny("bert", "choices"),
        lambda folder: spec(TransformersChoice, pretrained=folder),
        FewChoices,
        FewChoices,
        shifts=("head.bias",),
    ),
    "questions": Case(
        "extractive_qa",
        _save_tiny("bert", "qa"),
        lambda folder: spec(TransformersQA, pretrained=folder),
        FewQuestions,
        FewQuestions,
        shifts=("head.bias",),
    ),
    "images with masks": Case(
        "semantic_segmentation",
        _save_masks,
        lambda folder: spec(UNet, channels=1, widths=(8, 16), pretrained=folder),
        FewMasks,
        lambda **settings: FewMasks(labels=("old0", "old1", "old2"), **settings),
    ),
    "images with boxes": Case(
        "object_detection",
        _save_boxes,
        lambda folder: spec(TimmDetection, **BOXED, pretrained=folder),
        FewBoxes,
        lambda **settings: FewBoxes(labels=("old0", "old1", "old2"), **settings),
        arguments={"ewc": {"fisher": "empirical"}},  # boxes cannot be drawn
        settings={"freeze_batchnorm_stats": True},  # statistics of a batch depend on the batch, whoever splits it
    ),
    "llama": Case("causal_lm", _save_tiny("llama", "lm"), _language, FewAnswers, FewAnswers, new_head=False),
    "gpt2": Case("causal_lm", _save_tiny("gpt2", "lm"), _language, FewAnswers, FewAnswers, new_head=False),
    "packed plain text": Case(
        "causal_lm",
        _save_tiny("llama", "lm"),
        _language,
        FewPages,
        FewPages,
        new_head=False,
        refused_in_parts=tuple(VARIANTS),
    ),
    "pairs": Case(
        "seq2seq",
        _save_tiny("t5", "seq2seq", eos_token_id=2),
        lambda folder: spec(TransformersSeq2Seq, pretrained=folder),
        FewPairs,
        FewPairs,
        new_head=False,
    ),
    "images with adapters": Case(
        "classification",
        _save_small(spec(MLP, in_features=64, hidden=HIDDEN)),
        lambda folder: spec(MLP, in_features=64, hidden=HIDDEN, pretrained=folder, transforms=[_lora()]),
        lambda **settings: FewDigits(digits=NEW, **settings),
        lambda **settings: FewDigits(digits=OLD, **settings),
        refused_in_parts=("ewc",),
    ),
    "gpt2 with adapters": Case(
        "causal_lm",
        _save_tiny("gpt2", "lm"),
        lambda folder: spec(TransformersLM, pretrained=folder, transforms=[_lora()]),
        FewAnswers,
        FewAnswers,
        new_head=False,
        refused_in_parts=("ewc",),
    ),
}


def _old_and_new(sizes: tuple[int, int, int], **settings: Any) -> Extend:
    """Digits of old and new labels, in steps that have two old samples of each five."""
    train, val, test = (2 * n // 5 for n in sizes)
    old = FewDigits((train, val, test), OLD, batch_size=32, seed=None)
    rest = (sizes[0] - train, sizes[1] - val, sizes[2] - test)
    new = FewDigits(rest, NEW, batch_size=32, seed=None)
    return Extend(new, old, rehearse="all", **{"batch_size": 8, "seed": 0, **settings})


def _old_and_new_of(made: Callable[..., Any], new: Sequence[str], old: Sequence[str]) -> Callable[..., Extend]:
    """Makes data that are annotated in part, in steps with two old samples of each five."""

    def both(sizes: tuple[int, int, int] = (40, 21, 21), **settings: Any) -> Extend:
        of_old = [2 * n // 5 for n in sizes]
        of_new = [n - part for n, part in zip(sizes, of_old, strict=True)]
        parts = [made(tuple(of), labels, batch_size=32, seed=None) for of, labels in ((of_new, new), (of_old, old))]
        return Extend(*parts, rehearse="all", **{"batch_size": 8, "seed": 0, **settings})

    return both


OLD_AND_NEW, OF_REGIONS = "old and new labels", "images with regions"
IN_REGIONS = ("plain", "distill-logits-kl")
"""Variants that a network meets which proposes regions: it is large"""
OWN_CASES = {
    OLD_AND_NEW: Case(
        "classification",
        _save_small(spec(MLP, in_features=64, hidden=HIDDEN)),
        lambda folder: spec(MLP, in_features=64, hidden=HIDDEN, pretrained=folder),
        _old_and_new,
    ),
    "old and new tags": replace(CASES["tags"], data=_old_and_new_of(FewTags, TAGS, OLD_TAGS), source=None),
    "old and new boxes": replace(
        CASES["images with boxes"],
        data=_old_and_new_of(FewBoxes, ("a", "b", "c"), ("old0", "old1", "old2")),
        source=None,
        refused={"extend": ("model.distance", "mse", "kl")},
    ),
    "old and new sets of labels": replace(
        CASES["sets of labels"],
        data=_old_and_new_of(FewSets, ("a", "b", "c", "d"), ("old0", "old1", "old2")),
        source=None,
    ),
    OF_REGIONS: Case(
        "object_detection",
        _save_regions,
        lambda folder: spec(SmallFasterRCNN, **REGIONS, pretrained=folder),
        FewBoxes,
        settings={"freeze_batchnorm_stats": True},  # statistics of a batch depend on the batch, whoever splits it
        refused_in_parts=tuple(VARIANTS),
    ),
}
"""Cases that only a few variants meet, those of ON_OWN_CASE or IN_REGIONS, for how the work is split."""


def case_of(name: str) -> Case:
    """A case of CASES or OWN_CASES."""
    return CASES.get(name) or OWN_CASES[name]


PAIRS = [(case, variant) for case in CASES for variant in VARIANTS if variant not in CASES[case].refused]
"""(case, variant) wherever the library accepts it."""
IN_PARTS = [(case, variant) for case, variant in PAIRS if variant not in CASES[case].refused_in_parts]
"""Those that are accepted with parameters in parts (fsdp2) too."""
STAGED = [*(("images", variant) for variant in WITH_STAGES), *((OLD_AND_NEW, variant) for variant in ON_OWN_CASE)]
"""Also tried, for how the work is split."""
STAGED_SLOWLY = [
    *((OF_REGIONS, variant) for variant in IN_REGIONS),
    *(
        (case, variant)
        for case in OWN_CASES
        for variant in ON_OWN_CASE
        if case not in (OLD_AND_NEW, OF_REGIONS) and variant not in OWN_CASES[case].refused
    ),
]
"""The same, for `make test-all`."""
SLOWLY_IN_PARTS = [(case, variant) for case, variant in STAGED_SLOWLY if variant not in case_of(case).refused_in_parts]
"""Those of these that are accepted with parameters in parts."""
REFUSED = [(case, variant) for case in CASES for variant in CASES[case].refused]


def folder_of(case: str, root: Path) -> str:
    """The case's pretrained network below `root`, written on first use."""
    folder = root / case.replace(" ", "-")
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        case_of(case).pretrain(folder)
    return str(folder)


def make(case: str, variant: str, root: Path, dropout: float = 0.0, **settings: Any) -> SFTModule:
    """A module of `variant` on the case's pretrained network."""
    cls, arguments = {**VARIANTS, **WITH_STAGES, **ON_OWN_CASE}[variant]
    own = case_of(case)
    network = own.network(folder_of(case, root))
    network["init_args"]["dropout"] = dropout
    return cls(network, **{**own.settings, **arguments, **own.arguments.get(variant, {}), **settings})
