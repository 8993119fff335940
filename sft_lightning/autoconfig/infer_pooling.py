"""Finds how an encoder without a head pools tokens to one vector, from the sentence-transformers files beside it."""

import json
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError

OLD = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of sentence-transformers before 5.2, each true or false. A missing key means false, or true for the mean"""
OURS = {"cls": "cls", "mean": "mean", "lasttoken": "last", "last": "last"}
"""Names of sentence-transformers → values of `network.init_args.pooling`"""
ENCODE_AND_DECODE = ("t5", "mt5", "umt5", "bart", "mbart", "led", "plbart", "mvp", "bigbird_pegasus")


def pooling_of(place: str, kind: str) -> tuple[str, str]:
    """Returns (the pooling, words about it): as the model's own files have it, else the mean.

    Raises UserError if the files have a pooling that is not supported.

    Args:
        place: Folder or hub name.
        kind: Its model type.
    """
    modules = [m for m in as_list(read(place, "modules.json")) if isinstance(m, dict)]
    steps = [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path", ""))) for m in modules]
    pools = [path for name, path in steps if name == "Pooling"] if modules else ["1_Pooling"]
    config = read(place, f"{pools[0]}/config.json") if pools else None
    if not isinstance(config, dict):
        return ("model" if kind in ENCODE_AND_DECODE and not pools_alone(place) else "mean"), ""
    modes = modes_of(config)
    if any(name == "Dense" for name, _ in steps):
        more = "; the dense layer that follows its pooling is left out"
    else:
        more = ""
    if len(modes) != 1 or modes[0] not in OURS:
        raise UserError(
            "--network",
            f"{place} pools by {' and '.join(modes) or 'nothing'} ({pools[0]}/config.json), which is not supported",
            "write a study with network.init_args.pooling mean, cls or last, and give it by --config",
        )
    return OURS[modes[0]], f"its own pooling, {OURS[modes[0]]}{more}"


def modes_of(config: dict[str, Any]) -> list[str]:
    """The pooling modes that a configuration names, in any of its spellings."""
    said = config.get("pooling_mode")
    if said is not None:
        names = said if isinstance(said, list) else str(said).split("+")
        return [OLD.get(str(n).strip(), str(n).strip().lower()) for n in names]
    found = [name for key, name in OLD.items() if config.get(key) is True]
    if not found and config.get("pooling_mode_mean_tokens") is not False:
        found = ["mean"]  # sentence-transformers' default
    return found


def pools_alone(place: str) -> bool:
    """Whether a model was saved as an encoder alone, like those of sentence-T5."""
    config = read(place, "config.json")
    made_as = as_list(config.get("architectures")) if isinstance(config, dict) else []
    return any(str(name).endswith("EncoderModel") for name in made_as)


def as_list(value: Any) -> list[Any]:
    """Returns a list as it is, and an empty list for any other value."""
    return value if isinstance(value, list) else []


def read(place: str, name: str) -> Any:
    """Reads a JSON file of a folder or hub repository; None if it is missing, unreadable or out of reach."""
    folder = Path(place)
    if folder.is_dir():
        file: str | None = str(folder / name)
    else:
        from transformers.utils import cached_file

        quiet = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
        try:
            file = cached_file(place, name, **{f"_raise_exceptions_for_{k}": v for k, v in quiet.items()})
        except (OSError, ValueError):
            file = None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8")) if file is not None else None
    except (OSError, ValueError):
        return None
