"""The page's script is made once for each version, and a damaged file is made again."""

from importlib.metadata import version
from pathlib import Path

import pytest

from sft_lightning.report.vega_script import vega


def read_anew() -> str:
    vega.cache_clear()
    return vega()


def test_the_script_is_kept_on_disk_and_a_damaged_file_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vl_convert

    monkeypatch.setenv("SFT_CACHE_DIR", str(tmp_path))
    made, calls, bundle = read_anew(), list[str](), vl_convert.javascript_bundle
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda code: calls.append(code) or bundle(code))
    assert "vegaEmbed" in made and read_anew() == made and not calls, "it was made again"
    (file,) = (tmp_path / "page").iterdir()
    assert version("vl-convert-python") in file.name
    file.write_bytes(file.read_bytes()[:-1])
    assert read_anew() == made and len(calls) == 1, "a damaged file was read"
    assert read_anew() == made and len(calls) == 1, "the damaged file was not replaced"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SFT_CACHE_DIR", str(tmp_path / "file"))
    assert "vegaEmbed" in read_anew()


def test_a_user_without_a_home_gets_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SFT_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert "vegaEmbed" in read_anew()
