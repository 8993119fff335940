"""The generation settings of an exported Whisper, with which its own `generate` decodes as the run did."""

from collections.abc import Sequence
from typing import Any

KEPT = (
    "alignment_heads",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "is_multilingual",
    "lang_to_id",
    "no_timestamps_token_id",
    "prev_sot_token_id",
    "suppress_tokens",
    "task_to_id",
)
"""Of the pretrained settings; others, such as penalties and thresholds, are not used by a run"""


def settings_for_export(settings: Any, own: Any, start: int, given: Sequence[int]) -> Any:
    """Adds to the settings of a run what Whisper's `generate` reads.

    Args:
        settings: The run's.
        own: The pretrained model's.
        start: The decoder's first token.
        given: Tokens after it that are given, not generated: of the language, of the task, and that there are no time stamps.
    """
    for name in KEPT:
        if getattr(own, name, None) is not None:
            setattr(settings, name, getattr(own, name))
    settings.decoder_start_token_id, settings.return_timestamps, settings.max_length = start, False, None
    languages = {number: token for token, number in (getattr(own, "lang_to_id", None) or {}).items()}
    tasks = {number: name for name, number in (getattr(own, "task_to_id", None) or {}).items()}
    silent = getattr(own, "no_timestamps_token_id", None)
    if silent is not None and silent not in given:
        del settings.no_timestamps_token_id  # else `generate` would give it
    spoken = [number for number in given if number != silent]
    if len(spoken) == 2 and spoken[0] in languages and spoken[1] in tasks:
        settings.language, settings.task = languages[spoken[0]], tasks[spoken[1]]
    elif languages or spoken:  # else `generate` would guess the language of each sound
        settings.forced_decoder_ids = [[place, number] for place, number in enumerate(given, 1)]
    return settings
