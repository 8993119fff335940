"""Languages of multilingual tokenizers (mBART, M2M100, NLLB), which are set by their codes."""

from typing import Any

from sft_lightning.core.errors import UserError, nearest


def set_languages(tokenizer: Any, source: str | None, target: str | None) -> int | None:
    """Sets a tokenizer's languages. Returns the number of the target's token; None for tokenizers without languages.

    Raises UserError for a code that the tokenizer lacks, and if codes are missing or have no effect.
    """
    given = {"source_language": source, "target_language": target}
    if not hasattr(tokenizer, "src_lang"):
        if (useless := next((name for name, code in given.items() if code is not None), None)) is not None:
            raise UserError(
                f"network.{useless}",
                f"{type(tokenizer).__name__} has no languages",
                "leave it out, or use data.source_prefix",
            )
        return None
    if None in given.values():
        name = next(name for name, code in given.items() if code is None)
        raise UserError(
            f"network.{name}",
            f"{type(tokenizer).__name__} writes texts with the code of their language, and the code is not given",
            f"set it, for example to {next(iter(codes_of(tokenizer)), 'en_XX')}",
        )
    numbers = {}
    for name, code in given.items():
        numbers[name] = number_of(tokenizer, str(code))
        if numbers[name] is None:
            known = codes_of(tokenizer)
            raise UserError(
                f"network.{name}",
                f"the tokenizer has no language '{code}'{nearest(str(code), known)}",
                f"use one of {', '.join(known[:6])}{', …' if len(known) > 6 else ''}" if known else "correct it",
            )
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    return numbers["target_language"]


def codes_of(tokenizer: Any) -> list[str]:
    """The codes that a tokenizer lists."""
    listed = getattr(tokenizer, "lang_code_to_token", None) or getattr(tokenizer, "lang_code_to_id", None)
    return sorted(listed if listed else getattr(tokenizer, "additional_special_tokens", None) or [])


def number_of(tokenizer: Any, code: str) -> int | None:
    """The number of a language's token; None if there is none."""
    token = getattr(tokenizer, "lang_code_to_token", {}).get(code, code)
    number: int | None = tokenizer.get_vocab().get(token)
    return number
