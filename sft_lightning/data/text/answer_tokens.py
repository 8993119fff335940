"""Tokenises texts with marked answers, and marks the answers' tokens.

The text before an answer, tokenised alone, must give the first tokens of the whole text, as it does when the model
generates from there. If tokens merge across that boundary, the parts are tokenised separately.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sft_lightning.data.text.chat_template import Rendered


def encode(rendered: Sequence[Rendered], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(token ids, marks that are 1 for supervised tokens) of each text.

    A text gets one BOS if the tokenizer begins texts with it; a chat template decides that itself.
    """
    bos = tokenizer.bos_token_id
    starts = bos is not None and [bos] == list(tokenizer("a")["input_ids"])[:1]
    whole = _ids([r.text for r in rendered], tokenizer)
    cuts = [sorted({c for span in r.spans for c in span if 0 < c < len(r.text)}) for r in rendered]
    heads = iter(_ids([r.text[:c] for r, cs in zip(rendered, cuts, strict=True) for c in cs], tokenizer))
    made = []
    for r, cs, ids in zip(rendered, cuts, whole, strict=True):
        before = [next(heads) for _ in cs]
        at = {0: 0, len(r.text): len(ids), **{c: len(head) for c, head in zip(cs, before, strict=True)}}
        if any(ids[: len(head)] != head for head in before):
            ids, at = _apart(r.text, cs, tokenizer)
        marks = [0] * len(ids)
        for start, end in r.spans:
            marks[at[start] : at[end]] = [1] * (at[end] - at[start])
        if starts and ids[:1] != [bos] and not r.by_template:
            ids, marks = [bos, *ids], [0, *marks]
        if starts and ids[:2] == [bos, bos]:  # template and text brought one each
            ids, marks = ids[1:], marks[1:]
        made.append((ids, marks))
    return made


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _apart(text: str, cuts: list[int], tokenizer: Any) -> tuple[list[int], dict[int, int]]:
    """Token ids of the pieces between `cuts`, and the position of each cut in them."""
    edges = [0, *cuts, len(text)]
    ids: list[int] = []
    at = {0: 0}
    for start, end in pairwise(edges):
        ids += _ids([text[start:end]], tokenizer)[0]
        at[end] = len(ids)
    return ids, at
