"""How networks of speech write transcripts as target tokens: one interface for tokenizers of text and of characters."""

from typing import Any, Protocol


class Writer(Protocol):
    """Turns transcripts into target tokens."""

    first: int
    """Tokens at the beginning of every target that are given, not learned"""

    def targets(self, text: str, most: int | None) -> list[int]:
        """Target tokens of a transcript, at most `most`, the end token included if the network has one."""

    def unknown(self, text: str) -> set[str]:
        """Characters of a transcript that the network cannot write."""


class TextWriter:
    """Targets of an encoder-decoder such as Whisper: given tokens (language, task), the text, the end token.

    Args:
        tokenizer: A tokenizer of transformers.
        start: The decoder's first token, which is no target.
    """

    def __init__(self, tokenizer: Any, start: int) -> None:
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token_id
        empty = list(tokenizer("")["input_ids"])
        if empty and empty[-1] == self.end:
            empty.pop()
        self.given = empty[1:] if empty[:1] == [start] else empty
        self.first = len(self.given)

    def targets(self, text: str, most: int | None) -> list[int]:
        ids = [*self.given, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        end = [] if self.end is None else [self.end]
        return [*ids[: None if most is None else most - len(end)], *end]

    def unknown(self, text: str) -> set[str]:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.end:  # a tokenizer of bytes writes everything
            return set()
        return {c for c in set(text) if unknown in self.tokenizer(c, add_special_tokens=False)["input_ids"]}


class CharacterWriter:
    """Targets of a CTC network: one output for each character.

    Args:
        tokenizer: A CTC tokenizer of transformers, such as Wav2Vec2CTCTokenizer.
    """

    first = 0

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def targets(self, text: str, most: int | None) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if most is None else ids[:most]

    def unknown(self, text: str) -> set[str]:
        unknown, delimiter = self.tokenizer.unk_token_id, getattr(self.tokenizer, "word_delimiter_token", None)
        return {
            c
            for c in set(text)
            if c == delimiter or unknown in self.tokenizer(c, add_special_tokens=False)["input_ids"]
        }

    def labels(self, outputs: int, blank: int) -> list[str]:
        """The text that each of a network's outputs writes: a space for the word delimiter, nothing for the blank."""
        names = {number: token for token, number in self.tokenizer.get_vocab().items()}
        names |= {blank: ""}
        delimiter = getattr(self.tokenizer, "word_delimiter_token_id", None)
        if delimiter is not None:
            names[delimiter] = " "
        lower = getattr(self.tokenizer, "do_lower_case", False)
        found = [names.get(number, f"<{number}>") for number in range(outputs)]
        return [name.lower() if lower else name for name in found]
