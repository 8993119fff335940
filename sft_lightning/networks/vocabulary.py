"""Checks that a tokenizer has words: without tokenizer files, transformers 5 builds one of special tokens alone."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError

WORDS = (
    "tokenizer.json",
    "*.model",
    "vocab*",
    "merges.txt",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "bpe.codes",
    "dict.txt",
)


def has_words(folder: Path) -> bool:
    """Whether a folder has a file with a tokenizer's words."""
    return any(next(folder.glob(pattern), None) is not None for pattern in WORDS)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer's files; a tokenizer of bytes has a configuration only, and no words."""
    return has_words(folder) or (folder / "tokenizer_config.json").is_file()


def no_tokenizer(name: str) -> UserError:
    """The error for a folder or repository without tokenizer files."""
    return UserError(
        "network.tokenizer",
        f"{name} has no tokenizer files (tokenizer.json, vocab.txt, …)",
        "set network.init_args.tokenizer to a folder or hub name with the network's own tokenizer, or put its files there",
    )


def check_words(tokenizer: Any, name: str) -> None:
    """Raises UserError if a tokenizer has special tokens only, because all texts would become equal."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    words = sum(1 for token in tokenizer.get_vocab() if token not in special)
    if words < 2:
        raise no_tokenizer(name)
