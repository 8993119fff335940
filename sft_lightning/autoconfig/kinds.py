"""The kinds of samples that the front door knows: one entry each, read wherever a kind makes a difference."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of samples, named as in `InputSpec.kind`, and `ctc` for speech written frame by frame."""

    says: str
    """What data of this kind are, in messages"""
    tasks: Mapping[str, int | None]
    """Outputs of a network by task; None for one per class, 0 if the network knows"""
    otherwise: str = "--task, and --text_column, --label_column"
    """Options that change what the data are taken for"""
    family: str | None = None
    """The recipe; None for that of the network's architecture"""
    keeps_outputs: bool = False
    """Whether networks keep their output layer, as those that write texts do"""
    one_target: bool = True
    """Whether a sample has one target, and goes to any fold: few labels are cross-validated"""
    probed: bool = True
    """Whether a new head can be solved for on frozen features; otherwise it is trained on them"""
    tokens: tuple[int, int] = field(default=(0, 0))
    """(tokens of a template around a text, length to which texts may be cut, as a multiple of that for texts to classify); a
    multiple of 0 never cuts"""


KINDS = {
    "image": Kind(
        "images",
        {"classification": None, "regression": 1, "multi_label": None},
        "--task, and --label_column, --image_column",
    ),
    "masks": Kind(
        "images with masks",
        {"semantic_segmentation": None},
        "--set data.images=PATTERN and data.masks=PATTERN, data.labels, data.mask_values, data.ignore_index",
        one_target=False,
        probed=False,
    ),
    "boxes": Kind(
        "images with boxes",
        {"object_detection": None},
        "--set data.labels, and for COCO's JSON data.box_format",
        one_target=False,
        probed=False,
    ),
    "audio": Kind("sounds with labels", {"classification": None}, "--label_column"),
    "speech": Kind(
        "sounds with transcripts",
        {"seq2seq": 0},
        "--text_column (of the transcripts), --label_column (to classify), --set data.letter_case=lower and the like",
        family="network of speech",
        keeps_outputs=True,
        one_target=False,
    ),
    "ctc": Kind(
        "sounds with transcripts",
        {"ctc": 0},
        "--text_column (of the transcripts), --label_column (to classify), --set data.letter_case=lower and the like",
        family="network of speech",
        keeps_outputs=True,
        one_target=False,
    ),
    "text": Kind("texts with labels", {"classification": None, "regression": 1, "multi_label": None}, tokens=(4, 1)),
    "choices": Kind("questions with choices", {"multiple_choice": 1}, tokens=(4, 2)),
    "tokens": Kind(
        "plain text or instructions with answers",
        {"causal_lm": 0},
        family="language model",
        keeps_outputs=True,
        one_target=False,
        tokens=(64, 2),
    ),
    "pairs": Kind(
        "pairs of source and target texts",
        {"seq2seq": 0},
        "--text_column SOURCE,TARGET",
        family="encoder-decoder",
        keeps_outputs=True,
        one_target=False,
        tokens=(4, 2),
    ),
    "words": Kind(
        "tagged words",
        {"token_classification": None},
        "--text_column (of the words, but of CoNLL-U), --label_column (of the tags), --set data.scheme=IOB1 and the like",
        one_target=False,
    ),
    "questions": Kind("questions with contexts", {"extractive_qa": 2}, one_target=False, tokens=(4, 2)),
}
TASKS = tuple(dict.fromkeys(task for kind in KINDS.values() for task in kind.tasks))
