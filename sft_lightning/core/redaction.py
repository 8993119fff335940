"""Replaces secrets by `***` in everything that is written and printed.

Secrets are: values of keys on the deny-list, at any depth, and of environment variables with such names; user and
password in a URL and the signing parts of its query; arguments that a class declares as jsonargparse's `SecretStr`; and
texts with the shape of a well-known token.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from sft_lightning.core.errors import UserError

HIDDEN = "***"
DECLARED = "**********"  # how a SecretStr writes itself
PLACEHOLDER = re.compile(r"true|false|none|null|auto|default|disabled|enabled|required|optional|[*]+", re.I)

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
DENIED = re.compile(  # matches a key's words joined by _; names of a secret's file, column and the like are shown
    r"(?!.*_(file|path|dir|folder|name|ids?|url|uri|column|field|type|length|size|policy|env|variable)$)("
    r"(.*_)?(passwords?|passwd|passphrase|passcode|pwd|secrets?|credentials?|authorization|bearer|jwt"
    r"|apikey|apitoken|authtoken)(_.*)?"
    r"|(basic_)?auth|cookies?|token"
    r"|(.*_)?(api|access|auth|private|secret|signing|encryption|account|storage|service|master|ssh|deploy|license|wandb|hf"
    r"|openai|comet|neptune)_keys?"
    r"|(.*_)?(auth|access|api|refresh|session|security|oauth|login|id|service|personal|private|deploy|registry|read|write"
    r"|git|github|gitlab|hf|hub|face|huggingface|slack|wandb|comet|neptune|aws)_tokens?)"
)
VARIABLE = re.compile(r".*(PASSWORD|PASSWD|SECRET|APIKEY|TOKEN)", re.I)
PARAMETER = re.compile(r"(.*_)?(sig|sign|signature|credential|key|token|auth|pass)")
RANDOM = re.compile(r"(?=.*[A-Za-z])(?=.*\d.*\d)[\w-]{16,}", re.A)
USER = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]{0,30}://)(?!git@)([^\s/?#"'<>]+)@""")
QUERY = re.compile(r"""([?&#])([\w.%-]+)=([^&\s#"'<>]*[^&\s#"'<>:.,;)\]])""")
ASSIGNED = re.compile(r"""(?<![\w?&])([\w.-]{1,100})(=["']?)([A-Za-z0-9_+/.-]{8,})""")
TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-(?:proj|svcacct|admin|ant|or|lf|live|test)-[\w-]{16,}|sk-[A-Za-z0-9]{16,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|wandb_v\d+_\w{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*)"
)

_learned: set[str] = set()


def snake(name: str) -> str:
    """Joins the words of a name by _: `hf-apiToken` becomes hf_api_token."""
    return "_".join(WORD.findall(name)).lower()


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Tells whether a key of this name holds a secret: `api_key` and `token` do, `pad_token` and `max_tokens` do not."""
    return DENIED.fullmatch(snake(name)) is not None


def holds_secret(name: str, value: Any) -> bool:
    """Tells whether a value is a secret: by its key's name, or by the value if the name is ambiguous."""
    if is_secret(name):
        return True
    unsure = name.lower().endswith("token") and RANDOM.fullmatch(str(value))
    return bool(unsure or ("wandb" in name.lower() and re.fullmatch("[0-9a-f]{40}", str(value))))


def walk(value: Any, visit: Callable[[Any, str, str], Any], name: str = "", path: str = "") -> Any:
    """Copies plain nested values and replaces each by `visit(value, name, path)`. Values below a secret's key get its name."""
    if hasattr(value, "as_dict"):  # a parser's namespace
        value = value.as_dict()
    if isinstance(value, dict):
        top = name if is_secret(name) else "wandb" if "wandb" in name else ""
        copied = {}
        for key, held in value.items():
            below = str(key) if not top or key == "class_path" else top if is_secret(top) else f"{top}_{key}"
            copied[key] = walk(held, visit, below, f"{path}.{key}".lstrip("."))
        return copied
    if isinstance(value, list | tuple):
        items = [walk(held, visit, name, f"{path}[{i}]") for i, held in enumerate(value)]
        return tuple(items) if type(value) is tuple else items
    return visit(value, name, path)


# ---- secrets that are known by their value ----


def forget() -> None:
    """Forgets the learned secrets. Called when a command begins."""
    _learned.clear()
    from_environment.cache_clear()


def learn(value: Any, name: str = "") -> None:
    """Notes the secrets in a config, so that they are replaced wherever they appear."""

    def visit(value: Any, name: str, _: str) -> None:
        declared = hasattr(value, "get_secret_value")
        text = str(value.get_secret_value() if declared else value)
        found = [text] if declared or holds_secret(name, value) else in_urls(text)
        _learned.update(s for s in found if len(s) >= 4 and not PLACEHOLDER.fullmatch(s))

    walk(value, visit, name)


def learn_arguments(arguments: list[str]) -> None:
    """Notes the secrets on a command line: `--data.api_key VALUE`, and mappings such as `{token: VALUE}`."""
    for _, name, value in options(arguments):
        learn([value, *re.findall(r"""[^\s"',:{}\[\]]+""", value)] if is_secret(name) else value, name)
        for key, held in re.findall(r"""([\w.-]+)["']?\s*:\s*["']?([^\s"',{}\[\]]+)""", value if "{" in value else ""):
            learn(held, key)


def options(arguments: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (text before the value, last part of the option's name, value) of each argument of a command line."""
    name = ""
    for argument in arguments:
        before, assigned, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        name = before.rpartition(".")[2].lstrip("-") if before else name
        yield before + assigned, name, value
        name = name if before and not assigned else ""


@lru_cache(maxsize=1)
def from_environment(variables: int) -> set[str]:
    """Returns the secrets in variables such as WANDB_API_KEY or HF_TOKEN, and passwords in URLs.

    They have at least 8 characters. Words of fewer than 16 letters are left out, since paths and names may contain them
    (`postgres`). `variables` is the number of variables: if it changes, the environment is read again.
    """
    found: set[str] = set()
    for name, value in os.environ.items():
        found.update(s for s in in_urls(value) if len(s) >= 8)
        named = VARIABLE.fullmatch(name) or is_secret(name.lower())
        if not named and not (name.upper().endswith("_KEY") and RANDOM.fullmatch(value)):
            continue
        ordinary = PLACEHOLDER.fullmatch(value) is not None or (len(value) < 16 and value.isalpha())
        file = value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value))
        if len(value) >= 8 and not ordinary and not file:
            found.add(value)
    return found


def in_urls(text: str) -> list[str]:
    """Returns the secrets of URLs in a text: user with password, the password alone, and secret query values."""
    if "://" not in text:
        return []
    users = [part for _, user in USER.findall(text) for part in (user, user.partition(":")[2])]
    return [unquote(s) for s in (*users, *(value for _, name, value in QUERY.findall(text) if in_query(name)))]


def in_query(name: str) -> bool:
    """Tells whether a URL's query parameter is a secret: `token`, `api_key`, `X-Amz-Signature`, …"""
    return is_secret(name) or PARAMETER.fullmatch(snake(name)) is not None


@lru_cache(maxsize=8)
def pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Returns a pattern of all spellings of known secrets; those of fewer than 8 characters match whole words only."""
    forms: set[str] = set()
    for secret in secrets:
        forms |= {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], " ".join(secret.split())}
        forms |= {quote(secret, safe=""), quote(secret)}
    longest_first = sorted((f for f in forms if len(f) >= 4), key=len, reverse=True)
    spelled = [re.escape(f) if len(f) >= 8 else rf"(?<!\w){re.escape(f)}(?!\w)" for f in longest_first]
    return re.compile("|".join(spelled)) if spelled else None


# ---- for output ----


def redact(text: str) -> str:
    """Replaces every secret in a text."""
    by_value = pattern(frozenset(_learned | from_environment(len(os.environ))))
    if by_value is not None:
        text = by_value.sub(HIDDEN, text)
    if "://" in text:
        text = USER.sub(rf"\1{HIDDEN}@", text)
    if "=" in text:
        text = QUERY.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if in_query(m[2]) else m[0], text)
        text = ASSIGNED.sub(lambda m: f"{m[1]}{m[2]}{HIDDEN}" if assigns_secret(m[1], m[3]) else m[0], text)
    return TOKEN.sub(HIDDEN, text)


def assigns_secret(name: str, value: str) -> bool:
    """Tells whether `name=value` in a text shows a secret; code such as `token=token` does not."""
    return is_secret(name.rpartition(".")[2]) and re.search("[0-9]", value) is not None


def without(value: Any, name: str = "") -> Any:
    """Copies plain nested values with secrets replaced. Keys stay, also class_path below a secret's key."""

    def visit(value: Any, name: str, path: str) -> Any:
        if isinstance(value, str):
            declared = value == DECLARED and not path.endswith("]")
            return value if not value else HIDDEN if declared or holds_secret(name, value) else redact(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return HIDDEN if (number and is_secret(name)) or hasattr(value, "get_secret_value") else value

    return walk(value, visit, name)


def without_in_arguments(arguments: list[str]) -> list[str]:
    """Returns a command line with secrets replaced."""
    return [redact(before) + str(without(value, name)) for before, name, value in options(arguments)]


def left_out(value: Any, path: str = "") -> list[str]:
    """Returns the dotted keys at which a config from a file has `***` for a secret."""
    found = []

    def visit(value: Any, name: str, path: str) -> None:
        value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        own = bool(path) and (is_secret(name) or not path.endswith("]"))  # a list may hold `***`: star ratings
        part = isinstance(value, str) and re.search(r"://.*\*\*\*|=\*\*\*|(?i:bearer|basic|token)\s+\*\*\*", value)
        if part or (own and value == HIDDEN):
            found.append(path)

    walk(value, visit, "", path)
    return found


def refuse_left_out(value: Any, where: str = "") -> None:
    """Raises UserError if a config from a file has `***` for a secret."""
    if names := sorted(left_out(value, where), key=len):
        raise UserError(
            names[0],
            f"is a secret, which a run never saves, got '{HIDDEN}'",
            f"give it again, by --{names[0]} or in another --config",
        )


class Guarded:
    """A text stream that replaces secrets in everything written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written: int = self._stream.write(redact(text))
        return written

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Flushes and leaves the stream open, which is the process's own: log handlers that outlive the guard (absl's) close it
        at exit, and Python ends with code 120 if it cannot flush standard error.
        """
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


def bare(stream: Any) -> Any:
    """The stream that a guard stands before: for a user's own data, which a file would hold unchanged."""
    while isinstance(stream, Guarded):
        stream = stream._stream
    return stream


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Replaces secrets in everything that Python prints: warnings, logs of libraries, our own lines."""
    with redirect_stdout(Guarded(sys.stdout)), redirect_stderr(Guarded(sys.stderr)):
        yield


@contextmanager
def hidden_from_wandb() -> Iterator[None]:
    """Hides secrets while W&B starts, which records the command line and all environment variables that begin with SLURM."""
    arguments = sys.argv
    taken = {n: v for n, v in os.environ.items() if n.startswith("SLURM") and redact(v) != v}
    sys.argv = [*arguments[:1], *without_in_arguments(arguments[1:])]
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        sys.argv = arguments
        os.environ.update(taken)
