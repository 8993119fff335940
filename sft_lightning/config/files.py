"""Reads config files, reports errors with their line, keeps `on:` as a text key, and reads None as null on the command line."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from sft_lightning.config.options import NOT_WRITTEN
from sft_lightning.config.retention_names import spread
from sft_lightning.core import plain_yaml, redaction
from sft_lightning.core.errors import UserError


def allow_on_as_key() -> None:
    """Makes jsonargparse read the keys `on` and `off` as text: YAML 1.1 reads them as booleans, and the anchor has an `on:`."""
    plain = get_loader("yaml")
    if getattr(plain, "names_keys", False):
        return

    def load(text: str) -> Any:
        if text == redaction.HIDDEN:  # `***` is not valid YAML; it replaces a secret that was left out
            return text
        if text.strip() == "None":  # how W&B's agents, and users of Python, write null
            return None
        try:
            plain_yaml.check_keys(text)
        except plain_yaml.DoubledKey as error:  # the parser reads a value as text if a YAMLError is raised
            raise UserError("--config", error.said, error.fix) from None
        value = plain(text)
        return text if value is None and text.lstrip().startswith("#") else spread(named(value))

    load.names_keys = True  # type: ignore[attr-defined]
    set_loader("yaml", load, exceptions=(yaml.YAMLError,))  # a text such as `,` is read once more, and is not YAML


def named(value: Any) -> Any:
    """Returns the same content with boolean keys turned back into `on` and `off`."""
    if isinstance(value, dict):
        return {("on" if k else "off") if isinstance(k, bool) else k: named(v) for k, v in value.items()}
    return [named(v) for v in value] if isinstance(value, list) else value


def check_yaml(path: Path) -> None:
    """Raises UserError, with the line, unless a file is a config: it must exist and hold a YAML mapping."""
    try:
        if path.is_char_device() or path.is_block_device():
            raise UserError("--config", f"{path} is a device, not a file")
        content = plain_yaml.peek_file(path)
    except FileNotFoundError:
        raise UserError("--config", f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError("--config", f"{path} is not UTF-8 at byte {error.start}", "convert it to UTF-8") from None
    except OSError as error:
        raise UserError("--config", f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError("--config", f"{path}: values are nested too deeply") from None
    except plain_yaml.DoubledKey as error:
        raise UserError("--config", f"{path}: {error.said}", error.fix) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            "--config", f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from None
    except UserError:
        raise
    except ValueError as error:  # an impossible date, a number of thousands of digits, a path with a null character
        raise UserError("--config", f"{path}: a value cannot be read: {error}") from None
    if not isinstance(content, dict):
        held = {"NoneType": "nothing", "str": "text", "list": "a list"}.get(type(content).__name__, "a value")
        raise UserError("--config", f"{path} must hold a mapping (model, network, data, …), got {held}")
    check_size(path, content)
    if isinstance(lacks := content.get(NOT_WRITTEN), dict) and lacks:
        key, why = next(iter(lacks.items()))
        raise UserError(
            "--config",
            f"{path} comes from a run in Python and cannot repeat it: {key}: {why}",
            f"write {key} into the file as plain values, and remove {NOT_WRITTEN}",
        )
    redaction.learn(content)


DEEPEST, MOST = 50, 100_000


def check_size(path: Path, content: Any) -> None:
    """Raises UserError if aliases make a config endless or too large."""
    level, count = [content], 0
    for _ in range(DEEPEST):
        below = [v for held in level for v in (held.values() if isinstance(held, dict) else held)]
        level, count = [v for v in below if isinstance(v, dict | list | tuple | set)], count + len(below)
        if not level:
            return
        if count > MOST:
            break
    raise UserError("--config", f"{path}: values are nested too deeply or within themselves, or there are too many")


def check_values(arguments: list[str]) -> None:
    """Raises UserError if a value on the command line has a YAML tag, such as `!!python/object`, which would make an object."""
    name = ""
    for argument in arguments:
        name, value = argument.partition("=")[::2] if argument.startswith("--") else (name, argument)
        if "!" not in value:
            continue
        try:
            yaml.safe_load(value)
        except yaml.constructor.ConstructorError:
            raise UserError(name, f"{value:.80} has a YAML tag; only plain values are allowed", "quote it") from None
        except yaml.YAMLError:
            continue  # not YAML: the value is text
