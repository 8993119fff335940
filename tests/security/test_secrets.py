"""What is a secret and what is none: by name, by shape, in URLs, in the environment, in nested values."""

import json
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.core.redaction import HIDDEN, is_secret, left_out, redact, without
from tests.cli.conftest import ROOT

SECRET_NAMES = [
    *("api_key", "apikey", "apiKey", "API-KEY", "token", "auth_token", "access_token", "hf_token", "hub_token"),
    *("use_auth_token", "password", "db_password", "passwd", "secret", "client_secret", "aws_secret_access_key"),
    *("credentials", "credential", "private_key", "secret_key", "authorization", "auth", "wandb_key", "wandb_api_key"),
    *("personal_access_token", "bearer", "passphrase", "X-Api-Key", "openai_api_key", "api_tokens", "session_token"),
]
PLAIN_NAMES = [
    *("tokenizer", "tokenizer_name", "tokens", "max_tokens", "num_tokens", "token_column", "pad_token", "eos_token"),
    *("special_tokens", "additional_special_tokens", "eos_token_id", "token_type_ids", "class_token", "image_token"),
    *("key", "keys", "label_key", "sort_key", "num_key_value_heads", "key_length", "password_column", "secret_name"),
    *("api_key_file", "token_path", "credentials_path", "author", "authors", "signature", "compass", "passes", "url"),
    *("tokenised", "max_new_tokens", "mask_token", "keyboard", "secretary", "access", "api", "session_id", "path"),
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    redaction.forget()
    monkeypatch.setattr("os.environ", {"PATH": "/usr/bin"})


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_key_of_this_name_holds_a_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_key_of_this_name_holds_none(name: str) -> None:
    assert not is_secret(name)


def every_option() -> list[str]:
    """Names of all options: ours, of our classes, of Lightning's trainer, of torch's optimizers."""
    import torch

    import sft_lightning.data
    import sft_lightning.modules
    import sft_lightning.networks
    from sft_lightning.config.options import OPTIONS
    from sft_lightning.config.parser_errors import arguments_of, class_names

    names = [name for name, *_ in OPTIONS]
    for key, package in (("model", "modules"), ("network", "networks"), ("data", "data")):
        home = getattr(sft_lightning, package)
        ours = [
            c for c in class_names(key) if hasattr(home, c) and getattr(home, c).__module__.startswith("sft_lightning.")
        ]
        names += [a for c in ours for a in arguments_of(f"{home.__name__}.{c}")]
    taken = [signature(c) for c in (Trainer, *vars(torch.optim).values()) if isinstance(c, type)]
    names += [p.name for s in taken for p in s.parameters.values() if p.kind != Parameter.VAR_KEYWORD]
    return sorted(set(names))


def test_no_option_there_is_counts_as_a_secret() -> None:
    names = every_option()
    assert {"tokenizer", "max_length", "wandb_tags", "trust_remote_code", "max_epochs"} <= set(names)
    assert [n for n in names if is_secret(n)] == [], "their values would not be saved"


@pytest.mark.slow
def test_no_setting_of_transformers_models_counts_as_a_secret() -> None:
    from transformers import CONFIG_MAPPING

    found = {n for cls in CONFIG_MAPPING.values() for n in signature(cls.__init__).parameters}
    assert "pad_token_id" in found and len(found) > 1000
    assert [n for n in sorted(found) if is_secret(n)] == []


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda f: f.stem)
def test_the_experiments_hold_nothing_that_is_left_out(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert without(content) == content
    assert redact(file.read_text()) == file.read_text()


SHAPES = [
    *("hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "ghp_0123456789abcdefghijABCDEFGHIJ012345", "AKIAIOSFODNN7EXAMPLE"),
    *("github_pat_11ABCDEFG0123456789_abcdefghijkl", "sk-abcdefghijklmnopqrstuvwxyz012345", "xoxb-123456789012-abcdef"),
    *("sk-proj-Ab_Cd-Ef0123456789ABCDEF", "sk-ant-api03-Ab_Cd-Ef0123456789ABC", "glpat-abcdefghij0123456789"),
    *("wandb_v1_AbCdEfGhIjKlMnOpQrSt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s5cflnsdf-SDF_sdf"),
]


@pytest.mark.parametrize("token", SHAPES)
@pytest.mark.parametrize("text", ["{}", "the key {} is wrong", "'{}'", '{{"a": "{}"}}', "key={},", "--x {}\n"])
def test_a_well_known_shape_is_left_out_of_any_text(token: str, text: str) -> None:
    assert redact(text.format(token)) == text.format(HIDDEN)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "timm/vit_base_patch16_224.augreg_in21k",
            "hf-internal-testing/tiny-random-bert",
            "hf_model",
            "sk-learn-digits-few",
        ),
        *("experiments/digits/distill.yaml", "runs/digits-distill/20261122-065848-4f25", "0123456789abcdef" * 4),
        *("token=token, password=None", "tokenizer=bert-base-uncased", "max_tokens=100000000", "lr=0.001&batch=20"),
        *("https://example.org/a/b.zip?version=3&lang=en#top", "hf://datasets/user/name@main/file", "user@example.org"),
        *("ssh://git@github.com/user/repo", "git+https://example.org/x.git@v1.0", "task-sk-1", "eyJust a word", "AKIA"),
    ],
)
def test_what_only_resembles_a_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@example.org:8080/a?b=1", "https://***@example.org:8080/a?b=1"),
        ("https://sometoken@example.org/a", "https://***@example.org/a"),
        ("postgresql://me:p@ss@db/x", "postgresql://***@db/x"),
        ("https://example.org/a?token=abc&b=1", "https://example.org/a?token=***&b=1"),
        ("https://example.org/a?b=1&api_key=a%20b#top", "https://example.org/a?b=1&api_key=***#top"),
        (
            "https://s3/x?X-Amz-Credential=AK%2Fus&X-Amz-Date=2026&X-Amz-Signature=00ff",
            "https://s3/x?X-Amz-Credential=***&X-Amz-Date=2026&X-Amz-Signature=***",
        ),
        ("https://blob/x?sv=2024&sig=a%2Bb", "https://blob/x?sv=2024&sig=***"),
        ("https://example.org/#access_token=abc&lang=en", "https://example.org/#access_token=***&lang=en"),
    ],
)
def test_the_rest_of_a_url_stays(url: str, shown: str) -> None:
    assert redact(f"cannot reach {url}: no") == f"cannot reach {shown}: no"
    assert redact(shown) == shown


ENVIRONMENT = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "a-token-of-the-hub",
    "HUGGING_FACE_HUB_TOKEN": "another-token",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "OUR_OWN_TOKEN": "token-of-ours",
    "DB_PASSWORD": "correct horse",
    "PGPASSWORD": "battery-staple",
    "SOME_SECRET": "tell-no-one",
    "SLURM_JWT": "of-the-scheduler",
    "HTTPS_PROXY": "http://me:of-the-proxy@proxy:3128",
}
NOT_SECRET = {
    "TOKENIZERS_PARALLELISM": "false-parallelism",
    "MAX_TOKENS": "1000000000",
    "HF_TOKEN_PATH": "/home/me/token-file",
    "GOOGLE_APPLICATION_CREDENTIALS": __file__,
    "SHORT_TOKEN": "seven77",
    "PWD": "/usr/lib",
    "KEYBOARD_LAYOUT": "qwertyuiop",
    "SOME_KEY": "just-a-word",
}


def test_secrets_of_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {**ENVIRONMENT, **NOT_SECRET})
    for name, value in ENVIRONMENT.items():
        held = "of-the-proxy" if name == "HTTPS_PROXY" else value
        assert held not in redact(f"before {held} after"), f"the value of {name} is printed"
        assert redact(f"before {held} after") == f"before {HIDDEN} after"
    for name, value in NOT_SECRET.items():
        assert redact(f"before {value} after") == f"before {value} after", f"{name} is no secret"


CONFIG = {
    "data": {
        "init_args": {
            "api_key": "hunter22",
            "url": "https://me:letmein99@example.org/x?token=query-token",
            "tokenizer": "bert",
            "pad_token": "<pad>",
            "service_token": "abcdef0123456789abc",
            "labels": ["*", "**", "***"],
            "password": 12345678,
            "token": None,
            "use_auth_token": True,
            "credentials": {
                "class_path": "my.Login",
                "init_args": {"user": "somebody", "keys": ["first-key", "second-key"]},
            },
            "wandb": {"login": "0123456789abcdef0123456789abcdef01234567", "commit": "0123"},
            "commit": "0123456789abcdef0123456789abcdef01234567",
        }
    }
}


def test_secrets_of_a_config_are_left_out_and_the_rest_stays() -> None:
    assert without(CONFIG)["data"]["init_args"] == {
        "api_key": "***",
        "url": "https://***@example.org/x?token=***",
        "tokenizer": "bert",
        "pad_token": "<pad>",
        "service_token": "***",
        "labels": ["*", "**", "***"],
        "password": "***",
        "token": None,
        "use_auth_token": True,
        "credentials": {"class_path": "my.Login", "init_args": {"user": "***", "keys": ["***", "***"]}},
        "wandb": {"login": "***", "commit": "0123"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
    }


def test_what_was_learned_from_a_config_is_left_out_everywhere() -> None:
    redaction.learn(CONFIG)
    for held in ("hunter22", "letmein99", "query-token", "12345678", "somebody", "first-key", "abcdef0123456789abc"):
        assert redact(f"x{held}y {held}") == f"x{HIDDEN}y {HIDDEN}", f"{held} is printed"
    assert without({"url": "here/hunter22/x"}) == {"url": "here/***/x"}
    redaction.forget()
    assert redact("hunter22") == "hunter22"


def test_what_a_librarys_text_assigns_to_a_secrets_name_is_left_out() -> None:
    said = "request failed: api_key=Abc12345xyz, hub.token='q9w8e7r6t5', token=token, batch_size=123456789"
    assert redaction.redact(said) == (
        f"request failed: api_key={HIDDEN}, hub.token='{HIDDEN}', token=token, batch_size=123456789"
    )


def test_a_short_secret_is_left_out_as_a_word_alone() -> None:
    redaction.learn({"password": "seven", "token": "abc"})
    assert redact("seven, seventy: 'seven' abc") == f"{HIDDEN}, seventy: '{HIDDEN}' abc"
    redaction.learn({"password": "seven-and-more"})
    assert redact("seven-and-more") == HIDDEN


@pytest.mark.parametrize("secret", ['it\'s\\n a "secret"', "p@ss/w?rd&x=1", "two  spaces", "schlüssel-ä-1"])
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    from urllib.parse import quote

    redaction.learn({"password": secret})
    for written in (secret, repr(secret), quote(secret, safe=""), str(UserError("data", secret)), json.dumps(secret)):
        assert HIDDEN in redact(written) and "sec" not in redact(written), f"{written} becomes {redact(written)}"


def test_a_command_line_is_shown_without_its_secrets() -> None:
    typed = [
        "fit",
        "--config",
        "a.yaml",
        "--data.api_key",
        "hunter22",
        "--data.token=abc",
        "--network.tokenizer",
        "bert",
    ]
    typed += ["--data", "{init_args: {password: open-sesame}}", "--url", "https://me:pw@host", "--max_tokens", "5"]
    redaction.learn_arguments(typed)
    assert redaction.without_in_arguments(typed) == [
        *("fit", "--config", "a.yaml", "--data.api_key", "***", "--data.token=***", "--network.tokenizer", "bert"),
        *("--data", "{init_args: {password: ***}}", "--url", "https://***@host", "--max_tokens", "5"),
    ]


def test_a_config_read_back_tells_what_was_left_out() -> None:
    assert left_out(without(CONFIG)) == [
        f"data.init_args.{name}"
        for name in (
            *("api_key", "url", "service_token", "password", "credentials.init_args.user"),
            *("credentials.init_args.keys[0]", "credentials.init_args.keys[1]", "wandb.login"),
        )
    ]
    assert left_out({"labels": ["***"], "prompt": "*** {text} ***", "a": {"b": None}}) == []
    assert left_out({"header": "Bearer ***"}) == ["header"]


def test_streams_leave_secrets_out_and_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    redaction.learn({"api_key": "hunter22"})
    before: Any = sys.stdout, sys.stderr
    with redaction.guarded_streams():
        print("out: hunter22")
        print("err: hunter22", file=sys.stderr)
        sys.stdout.writelines(["hunter22\n"])
        assert not sys.stdout.isatty() and sys.stdout.encoding
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr()
    assert (said.out, said.err) == ("out: ***\n***\n", "err: ***\n")
