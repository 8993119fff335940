"""Finds when each word of a transcript is spoken, by the attention of a decoder such as Whisper's on the sound."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

Words = list[dict[str, Any]]
"""`word`, `start` and `end` in seconds, in order"""
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""What white space separates; kana and ideographs, which are written without it, are words of their own"""


def heads_of(model: Any) -> list[tuple[int, int]]:
    """(layer, head) of the attention that follows the sound: those that the generation settings name, else all heads of the
    upper half of the decoder, as in Whisper's own code.
    """
    named = getattr(model.generation_config, "alignment_heads", None)
    if named:
        return [(int(layer), int(head)) for layer, head in named]
    layers, heads = int(model.config.decoder_layers), int(model.config.decoder_attention_heads)
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def can_follow(model: Any) -> bool:
    """Whether a model's decoder has the attention that `attention_on` reads."""
    layers = getattr(model.get_decoder(), "layers", [])
    return bool(len(layers)) and all(hasattr(getattr(layer, "encoder_attn", None), "q_proj") for layer in layers)


def attention_on(model: Any, heard: Tensor, ids: Tensor, heads: Sequence[tuple[int, int]]) -> Tensor:
    """Attention `[H, U, T]` of the H heads for one transcript `ids[1, U]` on the encoder's output `heard[1, T, D]`.

    It is computed from the inputs of the layers: the attention of some implementations gives no weights.
    """
    decoder, found = model.get_decoder(), dict[tuple[int, int], Tensor]()

    def watch(number: int, wanted: list[int]) -> Any:
        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            queries = module.q_proj(args[0] if args else kwargs["hidden_states"]) * module.scaling
            keys = module.k_proj(kwargs["key_value_states"])
            for head in wanted:
                part = slice(head * module.head_dim, (head + 1) * module.head_dim)
                found[number, head] = (queries[0, :, part] @ keys[0, :, part].T).float().softmax(-1)

        return note

    with ExitStack() as undo:
        for number in {layer for layer, _ in heads}:
            note = watch(number, [head for layer, head in heads if layer == number])
            handle = decoder.layers[number].encoder_attn.register_forward_pre_hook(note, with_kwargs=True)
            undo.callback(handle.remove)
        decoder(input_ids=ids, encoder_hidden_states=heard, use_cache=False)
    return torch.stack([found[at] for at in heads])


def begins(attention: Tensor, width: int) -> np.ndarray:
    """The place in the sound at which each of U tokens begins, from attention `[H, U, T]`: `[U]`.

    Dynamic time warping on the mean over heads of the attention, which is standardised over tokens and median-filtered over
    `width` places, as transformers does it.
    """
    from transformers.models.whisper.generation_whisper import _median_filter

    centred = attention - attention.mean(-2, keepdim=True)
    scaled = centred / attention.std(-2, keepdim=True, unbiased=False)
    return warped(-_median_filter(scaled[None], width)[0].mean(0).cpu().double().numpy())


def warped(costs: np.ndarray) -> np.ndarray:
    """The place at which the cheapest path through `costs[U, T]` enters each row: `[U]`. A path steps by one row, one place or
    both; of equal ways it takes the one by a place.
    """
    rows, places = costs.shape
    best = np.full((rows + 1, places + 1), np.inf, dtype=np.float32)
    way = np.zeros((rows + 1, places + 1), dtype=np.int8)  # 0: both, 1: a row, 2: a place
    best[0, 0], way[0, :], way[:, 0] = 0, 2, 1
    for total in range(2, rows + places + 1):  # one diagonal after the other
        i = np.arange(max(1, total - places), min(rows, total - 1) + 1)
        j = total - i
        both, row, place = best[i - 1, j - 1], best[i - 1, j], best[i, j - 1]
        taken = np.where((both < row) & (both < place), 0, np.where((row < both) & (row < place), 1, 2))
        best[i, j] = costs[i - 1, j - 1] + np.choose(taken, (both, row, place))
        way[i, j] = taken
    found, i, j = np.zeros(rows, dtype=np.int64), rows, places
    while i > 0:
        found[i - 1] = max(0, j - 1)
        step = way[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return found


def token_times(model: Any, heard: Tensor, given: Sequence[int], text: Sequence[int], places: int) -> np.ndarray:
    """Places in the sound where each token of a text begins, and last where the text ends: `[U + 1]`.

    A token is where the one before it looks, which writes it, as in Whisper's own code. transformers takes the place at which
    the token itself looks, where the next one is spoken.

    Args:
        model: The model.
        heard: The encoder's output `[1, T, D]`.
        given: Tokens before the text, the first one included.
        text: The U tokens of the text, at least one.
        places: Places of the encoder's output that belong to the sound; the rest is padding.
    """
    ids = torch.tensor([[*given, *text]], device=heard.device)
    attention = attention_on(model, heard, ids, heads_of(model))[:, len(given) - 1 :, :places]
    return begins(attention, int(getattr(model.config, "median_filter_width", 7)))


def words_of(tokenizer: Any, text: Sequence[int], seconds: np.ndarray) -> Words:
    """The words of a text with their times.

    Args:
        tokenizer: Its tokenizer.
        text: The text's U tokens.
        seconds: `[U + 1]` when each token begins, and when the last one ends.
    """

    def read(some: Sequence[int]) -> str:
        found: str = tokenizer.decode(list(some), skip_special_tokens=True)
        return found

    whole = read(text)
    same = [[a == b for a, b in zip(whole, read(text[: n + 1]), strict=False)] for n in range(len(text))]
    ends = [row.index(False) if False in row else len(row) for row in same]
    ends[-1:] = [len(whole)]  # before, a token that ends within a character has read none of it
    ends = np.maximum.accumulate(ends).tolist()

    def token(place: int) -> int:
        return int(np.searchsorted(ends, place, side="right"))

    return [
        {
            "word": found.group(),
            "start": round(float(seconds[token(found.start())]), 3),
            "end": round(float(seconds[token(found.end() - 1) + 1]), 3),
        }
        for found in WORD.finditer(whole)
    ]
