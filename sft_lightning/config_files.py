"""Reading config files: what is no mapping is said with its line, and `on:` is a key like any other."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from sft_lightning.errors import UserError


def allow_on_as_key() -> None:
    """YAML 1.1 reads the key `on` (and `off`) as a boolean; the anchor's `on:` must not need quotes."""
    plain = get_loader("yaml")
    if getattr(plain, "names_keys", False):
        return

    def load(text: str) -> Any:
        return named(plain(text))

    load.names_keys = True  # type: ignore[attr-defined]
    set_loader("yaml", load)


def named(value: Any) -> Any:
    """The same content, boolean keys turned back into the words they were written as."""
    if isinstance(value, dict):
        return {("on" if k else "off") if isinstance(k, bool) else k: named(v) for k, v in value.items()}
    return [named(v) for v in value] if isinstance(value, list) else value


def check_yaml(path: Path) -> None:
    """Raises UserError, with the line, where a config file is missing or no YAML mapping."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"--config: {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"--config: {path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"--config: {path} must hold keys and values (model, network, data, …), it holds {type(content).__name__}"
        )
