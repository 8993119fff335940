"""Measures the share of unknown tokens in texts, which shows whether a tokenizer belongs to them."""

from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError

MUCH = 0.5
"""Share of unknown tokens from which it is reported"""


def unknown_share(tokenizer: Any, ids: np.ndarray) -> float:
    """Share of unknown tokens among those of the texts, without special ones. Raises UserError if all tokens are unknown,
    or if there are no tokens.

    Args:
        tokenizer: A tokenizer of transformers; others give 0.
        ids: All token ids of the training texts, `[tokens]`.
    """
    special = getattr(tokenizer, "all_special_ids", None)
    if special is None:
        return 0.0
    unknown = tokenizer.unk_token_id
    text = np.isin(ids, [i for i in special if i != unknown], invert=True)
    known = text & (ids != unknown) if unknown is not None else text
    if not known.any():
        what = "no token" if not text.any() else f"nothing but the unknown token {tokenizer.unk_token}"
        raise UserError(
            "network.tokenizer",
            f"{getattr(tokenizer, 'name_or_path', '') or 'it'} makes {what} of the training texts",
            "set network.init_args.tokenizer to the one that belongs to the network and the texts' language",
        )
    return float(1 - known.sum() / text.sum())
