"""Connectionist temporal classification (Graves et al. 2006): writes down a sound from outputs for each of its frames."""

import re
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.anchors import kl
from sft_lightning.core.structures import Batch, Items, Output, TaskInfo
from sft_lightning.tasks.base import RowTask, Said, at_least_single, draw_classes
from sft_lightning.tasks.error_rates import ERROR_RATES, error_rate
from sft_lightning.tasks.next_token import of_real

NEVER = float("-inf")
"""Marks the frames that a sound lacks beside a longer one"""
NONE = -1
"""Fills targets after the end of a transcript"""
SPECIAL = re.compile(r"[<\[].+[>\]]")


class CTC(RowTask):
    """Each head row has V scores of what a frame writes. An item is a sound.

    `select[B, T]` marks the frames of each sound. `labels` are the text that each output writes; that of the blank is empty,
    and special ones, such as `<s>`, write nothing. `y[N, U]` int64 has each transcript's outputs, then NONE. The loss is
    −log p(transcript | sound) in nats, summed over all alignments; its mean is over sounds, whatever their length.

    A text is read off by taking the likeliest output of each frame, then one of each run, without blanks. `rows` arranges
    scores as `[N, T, V]`, -∞ in frames that a sound lacks.
    """

    name = "ctc"
    metrics = ERROR_RATES
    default_metrics = ("wer", "cer")
    loss_unit = "nats"

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info, label_smoothing)
        self.blank = info.labels.index("") if "" in info.labels else 0
        self.written = ["" if SPECIAL.fullmatch(label) else label for label in info.labels]

    def rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """`[N, T, V]` scores of N sounds, from `logits[R, V]` of the selected frames; see the class."""
        counts = batch["select"].sum(-1)
        frames = torch.arange(max(1, int(counts.max())), device=logits.device)
        scores = logits.new_full((*counts.shape, len(frames), logits.shape[-1]), NEVER)
        scores[frames < counts[:, None]] = logits
        return scores[counts > 0]

    def row_loss(self, scores: Tensor, y: Tensor) -> Tensor:
        if not len(scores):
            return scores.sum()
        likely = log_softmax(scores).transpose(0, 1)
        lengths = is_there(scores).sum(-1), (y != NONE).sum(-1)
        loss: Tensor = F.ctc_loss(likely, y.clamp(min=0), *lengths, blank=self.blank, reduction="sum")
        return loss

    def predict(self, scores: Tensor) -> Tensor:
        """The likeliest output of each frame: `[N, T]`, NONE in frames that a sound lacks."""
        return scores.argmax(-1).masked_fill(~is_there(scores), NONE)

    def texts(self, scores: Tensor) -> list[str]:
        """The text of each sound."""
        return [self.text(path) for path in self.predict(scores).tolist()]

    def text(self, path: list[int]) -> str:
        """What outputs in the order of frames write."""
        outputs = [output for output, _ in groupby(path) if output not in (NONE, self.blank)]
        if not self.written:
            return " ".join(map(str, outputs))
        return "".join(self.written[output] for output in outputs).strip()

    def words(self, path: list[int]) -> list[dict[str, Any]]:
        """The words that outputs in the order of frames write, each from the start of its first frame to the end of its last.

        Times are in seconds. A character's frames are those of its run; blanks around a word do not belong to it.
        """
        found, open_, begin = list[dict[str, Any]](), False, 0
        for output, run in groupby(path):
            end = begin + len(list(run))
            for character in "" if output in (NONE, self.blank) else self.written[output]:
                if character.isspace():
                    open_ = False
                    continue
                if not open_:
                    found.append({"word": "", "start": round(begin * self.info.frame_seconds, 3)})
                found[-1]["word"] += character
                found[-1]["end"], open_ = round(end * self.info.frame_seconds, 3), True
            begin = end
        return found

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        metric.update(
            self.texts(self.rows(output.logits, batch)), [(text,) for text in of_real(batch["beside"], batch)]
        )

    def decode_rows(self, scores: Tensor) -> list[dict[str, Any]]:
        """`text`, the mean probability of its frames' likeliest outputs, and `words` with their times if those are known."""
        there = is_there(scores)
        likeliest = log_softmax(scores).amax(-1).exp().masked_fill(~there, 0.0)
        certain = (likeliest.sum(-1) / there.sum(-1)).tolist()
        rows = [{"text": text, "probability": round(p, 6)} for text, p in zip(self.texts(scores), certain, strict=True)]
        if not self.info.frame_seconds or not self.written:
            return rows
        return [
            {**row, "words": self.words(path)} for row, path in zip(rows, self.predict(scores).tolist(), strict=True)
        ]

    def said(self, output: Output, batch: Batch) -> list[Said] | None:
        """The texts, each with 1 − WER as its score; None without transcripts."""
        texts = self.texts(self.rows(output.logits, batch))
        if "beside" not in batch:
            return None
        pairs = zip(texts, of_real(batch["beside"], batch), strict=True)
        return [Said(text, right, max(0.0, 1.0 - error_rate([(text, (right,))]))) for text, right in pairs]

    def items(self, output: Output, batch: Batch) -> Items:
        """A sound's features are those of its frames; their weights sum to 1."""
        frames = batch["select"].sum(-1)
        each = 1 / frames.clamp(min=1).to(torch.promote_types(output.features.dtype, torch.float32))
        return super().items(output, batch)._replace(weights=each.repeat_interleave(frames))

    def vectors(self, scores: Tensor) -> Tensor:
        """All scores of a sound as one vector, divided by the root of the number of frames: its square is their mean."""
        frames = is_there(scores).sum(-1, keepdim=True)
        return scores.masked_fill(scores == NEVER, 0.0).flatten(1) / frames.clamp(min=1).sqrt()

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """The share of a sound's frames on whose likeliest output both agree."""
        return over_frames((one.argmax(-1) == other.argmax(-1)).double(), one)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL of a frame's outputs, the mean over a sound's frames."""
        there = is_there(student)
        each = at_least_single(student).new_zeros(there.shape)
        each[there] = kl(student[there], teacher[there], temperature).to(each.dtype)
        return over_frames(each, student)

    def draw(self, scores: Tensor, random: np.random.Generator) -> Tensor:
        """Transcripts of paths that are drawn frame by frame: a draw from p(transcript | sound)."""
        drawn = draw_classes(log_softmax(scores).flatten(0, 1), random).reshape(scores.shape[:-1])
        paths = drawn.masked_fill(~is_there(scores), NONE).tolist()
        texts = [[output for output, _ in groupby(path) if output not in (NONE, self.blank)] for path in paths]
        made = torch.full((len(texts), max([1, *map(len, texts)])), NONE, dtype=torch.int64)
        for row, text in zip(made, texts, strict=True):
            row[: len(text)] = torch.tensor(text, dtype=torch.int64)
        return made.to(scores.device)


def is_there(scores: Tensor) -> Tensor:
    """`[N, T]` bool: whether a sound has a frame."""
    return scores[..., 0] != NEVER


def log_softmax(scores: Tensor) -> Tensor:
    """Log-probabilities of a frame's outputs; equal ones in frames that a sound lacks."""
    scores = at_least_single(scores)
    return F.log_softmax(scores.masked_fill(scores == NEVER, 0.0), dim=-1)


def over_frames(each: Tensor, scores: Tensor) -> Tensor:
    """The mean of `each[N, T]` over a sound's frames: `[N]`."""
    there = is_there(scores)
    return each.masked_fill(~there, 0.0).sum(-1) / there.sum(-1).clamp(min=1)
