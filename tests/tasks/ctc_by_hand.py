"""CTC in ten lines each: the loss by Graves' forward recursion, texts read off frame by frame, jiwer's rates of all of them."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jiwer
import numpy as np
from scipy.special import log_softmax

from tests.networks.tiny_audio import LETTERS

BLANK = 0


def loss(logits: np.ndarray, y: np.ndarray) -> float:
    """−log p(transcript | sound) of `logits[T, V]` and outputs `y[U]`, filled with -1."""
    likely, outputs = log_softmax(logits, axis=1), [output for output in y.tolist() if output >= 0]
    states = [BLANK] + [state for output in outputs for state in (output, BLANK)]
    before = np.full(len(states) + 2, -np.inf)  # two states that cannot be, so that no index is negative
    before[2:4] = [likely[0, state] for state in states[:2]]
    for frame in likely[1:]:
        now = np.full_like(before, -np.inf)
        for at, state in enumerate(states, 2):
            reached = [before[at], before[at - 1]]
            if at > 3 and state not in (BLANK, states[at - 4]):
                reached.append(before[at - 2])
            now[at] = np.logaddexp.reduce(reached) + frame[state]
        before = now
    return -float(np.logaddexp.reduce(before[-2 if outputs else -1 :]))


def text(logits: np.ndarray) -> str:
    said, last = "", None
    for output in logits.argmax(1).tolist():
        if output not in (last, BLANK):
            name = LETTERS[output]
            said += " " if name == "|" else "" if name.startswith("<") else name
        last = output
    return said.strip()


def words(logits: np.ndarray) -> list[dict[str, Any]]:
    """Each word from its first letter's first frame to its last letter's last one, of 80 samples at 8 kHz."""
    path = [*logits.argmax(1).tolist(), -1]
    starts = [frame for frame in range(len(path)) if frame == 0 or path[frame] != path[frame - 1]]
    runs = [(path[a], a, b) for a, b in pairwise(starts)]
    letters = [(LETTERS[o], a, b) for o, a, b in runs if o != BLANK and not LETTERS[o].startswith("<")]
    found, at = list[dict[str, Any]](), 0
    for word in text(logits).split():
        while letters[at][0] == "|":
            at += 1
        own = letters[at : (at := at + len(word))]
        found.append({"word": word, "start": round(own[0][1] * 0.01, 3), "end": round(own[-1][2] * 0.01, 3)})
    return found


def answer(logits: np.ndarray) -> dict[str, Any]:
    probability = float(np.exp(log_softmax(logits, axis=1)).max(1).mean())
    return {"text": text(logits), "probability": probability, "words": words(logits)}


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    p, q = log_softmax(student, axis=1), log_softmax(teacher, axis=1)
    return float((np.exp(q) * (q - p)).sum(1).mean())


def agreement(student: np.ndarray, teacher: np.ndarray) -> float:
    return float((student.argmax(1) == teacher.argmax(1)).mean())


def measure(sounds: Sequence[np.ndarray], y: np.ndarray, right: Sequence[str]) -> dict[str, float]:
    said, right = [text(logits) for logits in sounds], list(right)
    plain = [[" ".join(re.sub("[^a-z ]", "", t.lower()).split()) for t in texts] for texts in (right, said)]
    return {
        "loss": float(np.mean([loss(logits, goal) for logits, goal in zip(sounds, y, strict=True)])),
        "wer": jiwer.wer(right, said),
        "cer": jiwer.cer(right, said),
        "wer_plain": jiwer.wer(*plain),
        "cer_plain": jiwer.cer(*plain),
    }
