"""Secrets are left out of what is written and printed; `***` stands in their place.

A secret is the value of an environment variable with a secret's name, a value under a config key with such a name,
user and password of a URL and the signing parts of its query, and what has the shape of a well-known token.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from sft_lightning.core.errors import UserError

HIDDEN = "***"

# ---- names ----


def these(names: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(names.split())


ALWAYS = these(
    "password passwords passwd passphrase passcode pwd secret secrets credential credentials authorization bearer jwt "
    "apikey apitoken authtoken"
)
ALONE = {("auth",), ("basic", "auth"), ("cookie",), ("cookies",), ("token",)}
NOT_ITSELF = these(  # a secret's file, column or name is none
    "file path dir folder name id ids url uri column field type length size policy env variable"
)
BEFORE_KEY = these(
    "api access auth private secret signing encryption account storage service master ssh deploy license wandb hf openai "
    "comet neptune"
)
BEFORE_TOKEN = these(
    "auth access api refresh session secret security oauth bearer login id service personal private deploy "
    "registry read write git github gitlab hf hub face huggingface slack wandb comet neptune aws"
)
IN_QUERY = these("sig sign signature credential key token auth pass")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words(name: str) -> list[str]:
    """`hf_apiToken` is hf, api, token."""
    return [word.lower() for word in WORD.findall(name)]


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a config key of this name holds a secret: `api_key` and `token` do, `pad_token` and `max_tokens` do not."""
    found = words(name)
    if not found or found[-1] in NOT_ITSELF:
        return False
    *before, last = found
    if not ALWAYS.isdisjoint(found) or tuple(found) in ALONE:
        return True
    if last in ("key", "keys"):
        return not BEFORE_KEY.isdisjoint(before[-1:])
    return last in ("token", "tokens") and not BEFORE_TOKEN.isdisjoint(before[-1:])


def looks_random(value: str) -> bool:
    """Letters and digits mixed, and long enough to be a key rather than a word."""
    mixed = re.search("[A-Za-z]", value) and re.search("[0-9].*[0-9]", value)
    return bool(mixed and re.fullmatch(r"[A-Za-z0-9_-]{16,}", value))


def holds_secret(name: str, value: Any) -> bool:
    """Whether the value under a key is a secret: by the key's name, or by the value where the name may mean either."""
    if is_secret(name):
        return True
    found = words(name)
    if not isinstance(value, str) or not found:
        return False
    if "wandb" in found and re.fullmatch("[0-9a-f]{40}", value):
        return True
    return found[-1] == "token" and looks_random(value)


# ---- secrets that are known by their value ----

PLACEHOLDERS = these(f"true false none null auto default disabled enabled required optional {HIDDEN}")
_learned: set[str] = set()


def forget() -> None:
    """Forgets what was learned: another command begins."""
    _learned.clear()


def learn(value: Any, name: str = "") -> None:
    """Notes the secrets in a config, so that they are left out wherever they turn up."""
    value = plain(value)
    if isinstance(value, dict):
        for key, held in value.items():
            learn(held, name if is_secret(name) else below(name, key))
    elif isinstance(value, list | tuple):
        for held in value:
            learn(held, name)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)
        found = {text} if holds_secret(name, value) else set(in_urls(text))
        _learned.update(s for s in found if len(s) >= 4 and s.lower() not in PLACEHOLDERS)


def learn_arguments(arguments: list[str]) -> None:
    """Notes the secrets on a command line: `--data.api_key VALUE`, and mappings such as `{token: VALUE}`."""
    for name, value in options(arguments):
        learn(value, name)
        if is_secret(name):
            for held in re.findall(r"""[^\s"',:{}\[\]]+""", value):
                learn(held, name)
        if "{" in value:
            for key, held in re.findall(r"""([\w.-]+)["']?\s*:\s*["']?([^\s"',{}\[\]]+)""", value):
                learn(held, key)


def options(arguments: list[str]) -> list[tuple[str, str]]:
    """(last part of the name, value) of `--name value` and `--name=value`; other arguments have no name."""
    found, name = [], ""
    for argument in arguments:
        if argument.startswith("--"):
            name, assigned, value = argument[2:].partition("=")
            if assigned:
                found.append((name.rpartition(".")[2], value))
                name = ""
        else:
            found.append((name.rpartition(".")[2], argument))
            name = ""
    return found


def from_environment() -> set[str]:
    """Values of variables such as WANDB_API_KEY or HF_TOKEN, and passwords in URLs.

    Of 8 characters and more; below 16 only such as no path or name is likely to hold: `postgres` is a folder, too.
    """
    found: set[str] = set()
    for name, value in os.environ.items():
        if "://" in value:
            found.update(s for s in in_urls(value) if len(s) >= 8)
        if len(value) < 8 or value.lower() in PLACEHOLDERS or (len(value) < 16 and value.isalpha()):
            continue
        last = words(name)[-1:]
        named = is_secret(name.lower()) or last == ["token"] or (last == ["key"] and looks_random(value))
        glued = name.upper().endswith(("PASSWORD", "PASSWD", "SECRET", "APIKEY", "TOKEN"))
        if (named or glued) and not (value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value))):
            found.add(value)
    return found


@lru_cache(maxsize=8)
def pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """All spellings of known secrets; those of fewer than 8 characters as whole words only."""
    forms: set[str] = set()
    for secret in secrets:
        forms |= {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], " ".join(secret.split())}
        forms |= {quote(secret, safe=""), quote(secret)}
    longest_first = sorted((f for f in forms if len(f) >= 4), key=len, reverse=True)
    spelled = [re.escape(f) if len(f) >= 8 else rf"(?<!\w){re.escape(f)}(?!\w)" for f in longest_first]
    return re.compile("|".join(spelled)) if spelled else None


# ---- secrets that are known by their shape ----

USER = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]{0,30}://)([^\s/?#"'<>]+)@""")
QUERY = re.compile(r"""([?&#])([\w.%-]+)=([^&\s#"'<>]*[^&\s#"'<>:.,;)\]])""")
TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-(?:proj|svcacct|admin|ant|or|lf|live|test)-[\w-]{16,}|sk-[A-Za-z0-9]{16,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|wandb_v\d+_\w{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*)"
)
ASSIGNED = re.compile(r"""(?<![\w?&])([\w.-]{1,100})(=["']?)([A-Za-z0-9_+/.-]{8,})""")


def in_urls(text: str) -> list[str]:
    """User with password, passwords alone, and secret query values of the URLs in a text."""
    if "://" not in text:
        return []
    users = [part for _, user in USER.findall(text) if user != "git" for part in (user, user.partition(":")[2])]
    values = [value for _, name, value in QUERY.findall(text) if in_query(name)]
    return [unquote(s) for s in (*users, *values)]


def in_query(name: str) -> bool:
    """Whether a URL's query parameter is a secret: `token`, `api_key`, `X-Amz-Signature`, …"""
    return is_secret(name) or not IN_QUERY.isdisjoint(words(name)[-1:])


def known() -> frozenset[str]:
    """All secrets known by value now."""
    return frozenset(from_environment() | _learned)


def redact(text: str, secrets: frozenset[str] | None = None) -> str:
    """The text with every secret in it replaced. `secrets` are those known by value, where they are at hand."""
    by_value = pattern(known() if secrets is None else secrets)
    if by_value is not None:
        text = by_value.sub(HIDDEN, text)
    if "://" in text:
        text = USER.sub(lambda m: m[0] if m[2] == "git" else f"{m[1]}{HIDDEN}@", text)
    if "=" in text:
        text = QUERY.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if in_query(m[2]) else m[0], text)
        text = ASSIGNED.sub(lambda m: f"{m[1]}{m[2]}{HIDDEN}" if assigns_secret(m[1], m[3]) else m[0], text)
    return TOKEN.sub(HIDDEN, text)


def assigns_secret(name: str, value: str) -> bool:
    """Whether `name=value` in a text gives a secret away; code such as `token=token` does not."""
    return is_secret(name.rpartition(".")[2]) and re.search("[0-9]", value) is not None


# ---- nested values ----


def without(value: Any, name: str = "", secrets: frozenset[str] | None = None) -> Any:
    """A copy of plain nested values, with secrets replaced. Keys stay; a class stays named below a secret's key."""
    secrets = known() if secrets is None else secrets
    if isinstance(value, dict):
        return {
            k: v if is_secret(name) and k == "class_path" else without(v, below(name, k), secrets)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        copied = [without(v, name, secrets) for v in value]
        return tuple(copied) if type(value) is tuple else copied
    if isinstance(value, bool) or value is None or value == "" or not isinstance(value, str | int | float):
        return value
    if holds_secret(name, value):
        return HIDDEN
    return redact(value, secrets) if isinstance(value, str) else value


def without_in_arguments(arguments: list[str]) -> list[str]:
    """A command line with secrets replaced."""
    secrets, name, found = known(), "", []
    for argument in arguments:
        if argument.startswith("--"):
            name, assigned, value = argument[2:].partition("=")
            value = HIDDEN if holds_secret(name.rpartition(".")[2], value) else redact(value, secrets)
            found.append(f"--{name}={value}" if assigned else redact(argument, secrets))
            name = "" if assigned else name
        else:
            found.append(HIDDEN if holds_secret(name.rpartition(".")[2], argument) else redact(argument, secrets))
            name = ""
    return found


def left_out(value: Any, name: str = "", path: str = "") -> list[str]:
    """Dotted keys at which a config read back has `***` in place of a secret."""
    value = plain(value)
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in left_out(v, below(name, k), f"{path}.{k}".lstrip("."))]
    if isinstance(value, list | tuple):
        own = name if is_secret(name) else ""  # a list may hold `***` for its own sake: star ratings
        return [found for i, v in enumerate(value) for found in left_out(v, own, f"{path}[{i}]")]
    if not isinstance(value, str) or HIDDEN not in value:
        return []
    part = "://" in value or re.search(r"=\*\*\*|(?i:bearer|basic|token)\s+\*\*\*", value)
    return [path] if (value == HIDDEN and name) or part else []


def refuse_left_out(value: Any, where: str = "") -> None:
    """Raises UserError where a config that was read back has `***` in place of a secret."""
    if names := sorted(left_out(value, path=where), key=len):
        raise UserError(
            f"{names[0]}: '{HIDDEN}' stands for a secret, which is never saved: give it again, by --{names[0]} or in another "
            "--config"
        )


def below(name: str, key: Any) -> str:
    """What a key below another is judged by: its own name, unless all below is secret already; wandb's stays told."""
    if is_secret(name):
        return name
    return f"wandb_{key}" if "wandb" in words(name) else str(key)


def plain(value: Any) -> Any:
    """A parser's namespace as a dict."""
    return value.as_dict() if hasattr(value, "as_dict") else value


# ---- what is printed ----


class Guarded:
    """A text stream that leaves secrets out of what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written: int = self._stream.write(redact(text))
        return written

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Leaves secrets out of all that Python prints: warnings, logs of libraries, lines of ours."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Guarded(sys.stdout), Guarded(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def hidden_from_wandb() -> Iterator[None]:
    """While W&B starts: it writes down the command line, and every variable of the environment that begins with SLURM."""
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
