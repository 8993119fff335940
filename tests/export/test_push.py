"""`export --push` against a stand-in of the hub, and `predict` from the name that was pushed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from sft_lightning.cli.main import main
from sft_lightning.export import writing
from sft_lightning.export.tuned import Tuned
from tests.export.hub import TOKEN, Hub, hub
from tests.refused import check_printed

Get = Callable[[str], Tuned]


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in that huggingface_hub uses in this process, as HF_ENDPOINT and HF_TOKEN make it in a fresh one."""
    with hub() as told:
        monkeypatch.setattr(constants, "ENDPOINT", told.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", told.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(writing, "compared", lambda *_: {"format": "", "library": "", "heads": {}})
        yield told


def test_a_pushed_export_predicts_from_its_name(
    online: Hub, tuned: Get, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, texts = tuned("classification-bert").run.path, tmp_path / "new.txt"
    texts.write_text("a text\nanother one\n")
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--push", "me/tuned"]) == 0
    printed = capsys.readouterr()
    assert f"push    {online.address}/me/tuned" in printed.out and TOKEN not in printed.out + printed.err
    assert (
        online.made[0]["name"] == "tuned" and "private" in str(online.made[0]) and online.tokens == {f"Bearer {TOKEN}"}
    )
    written = {
        f.relative_to(tmp_path / "out").as_posix(): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()
    }
    assert online.files["me/tuned"] == written
    assert not any(TOKEN.encode() in content for content in written.values())
    said = []
    for place in (str(tmp_path / "out"), "me/tuned"):
        assert main(["predict", place, "--input", str(texts)]) == 0
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1] and len(said[0]) == 2
    assert main(["predict", "me/other", "--input", str(texts)]) == 2
    check_printed(capsys.readouterr().err, "me/other", "nor a model that the hub gives", "correct the name")


def test_a_hub_that_refuses_is_one_line_without_the_token_and_the_folder_stays(
    online: Hub, tuned: Get, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.refuses, run = 403, tuned("classification-bert").run.path
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--push", "me/tuned"]) == 2
    printed = capsys.readouterr()
    assert "--push: me/tuned: " in printed.err and "403" in printed.err and TOKEN not in printed.out + printed.err
    assert (tmp_path / "out/README.md").is_file() and printed.err.count("\n") == 1


def test_what_cannot_be_pushed_is_refused_before_the_export(
    online: Hub, tuned: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(tuned("classification-bert").run.path), "--to", str(tmp_path / "out"), "--push"]
    assert main([*command, "no name"]) == 2
    assert "not a repository's name" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main([*command, "me/tuned"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([*command, "me/tuned"]) == 2
    assert "no token" in capsys.readouterr().err and not (tmp_path / "out").exists()
