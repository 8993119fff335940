"""`predict MODEL` answers a user's own files as `predict --run` does, in order, and resumes where it was stopped."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sft_lightning.cli.main import main
from sft_lightning.serve import predicting
from sft_lightning.serve.answering import Model
from tests.serve.conftest import TEXTS, Served
from tests.serve.test_answers import lines_of, same

Serve = Callable[[str], Served]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def said(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("index", "line", "file", "truncated")}


def test_a_file_gets_the_answers_of_predict_in_order_and_bad_rows_are_counted(
    served: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, file, out = served("classification-bert"), tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    expected = one.predicted("predict", lines_of(file))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"text": ""}', "no JSON", *lines[1:]]) + "\n")
    capsys.readouterr()
    assert main(["predict", str(one.run), "--input", str(file), "--output", str(out)]) == 0
    assert "8 samples answered by the new head, 2 unreadable (the first: " in capsys.readouterr().err
    found = rows(out)
    assert [row["index"] for row in found] == list(range(10)) and [row["line"] for row in found] == list(range(1, 11))
    assert all(set(row) == {"index", "line", "error"} for row in found[1:3]) and "empty" in found[1]["error"]
    for row, wanted in zip([found[0], *found[3:]], expected, strict=True):
        assert same(said(row), wanted), f"line {row['line']} is answered {row}, and predict --run says {wanted}"
    assert [row.get("truncated", False) for row in found][3:6] == [False, True, False]
    assert main(["predict", str(one.run), "--input", str(file), "--output", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_both_heads_of_lines_of_stdin_as_csv_and_as_lines_of_standard_output(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = served("classification-bert"), tmp_path / "out.csv"
    given = "one\nünïcödé 🦊\r\n\n".encode()
    labels = one.client.get("/model").json()["heads"]["new"]["labels"]
    answers = one.answers(texts=["one", "ünïcödé 🦊"], head="both")
    for more in (["--output", str(out)], []):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert main(["predict", str(one.run), "--head", "both", *more]) == 0
    table = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    for row, line, answer in zip(table[:2], printed, answers, strict=False):
        assert [row["new_label"], row["source_label"]] == [answer[head]["label"] for head in ("new", "source")]
        assert same([float(row[f"new_probability_{n}"]) for n in labels], answer["new"]["probabilities"])
        assert same({"new": line["new"], "source": line["source"]}, answer)
    assert table[2]["new_label"] == "" and "empty" in table[2]["error"] and "empty" in printed[2]["error"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "one"}\n{"text": "two"}\n')))
    assert main(["predict", str(one.run)]) == 0
    assert same(said(json.loads(capsys.readouterr().out.splitlines()[0])), answers[0]["new"])


def test_a_command_that_was_stopped_resumes_where_it_ended(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, file, out = served("classification-bert"), lines_of(tmp_path / "new.jsonl"), tmp_path / "out.jsonl"
    command = ["predict", str(one.run), "--input", str(file), "--output", str(out)]
    monkeypatch.setitem(predicting.CHUNK, "texts", 3)
    answered: list[int] = []
    answer, stops_at = Model.answer, [2]

    def stopping(self: Model, items: Any, source: bool = True) -> Any:
        if items[0].name == "example":  # the first pass
            return answer(self, items, source)
        if len(answered) == stops_at[0]:
            raise KeyboardInterrupt
        answered.append(len(items))
        return answer(self, items, source)

    monkeypatch.setattr(Model, "answer", stopping)
    assert main(command) == 130
    part = tmp_path / "out.jsonl.part"
    assert len(part.read_text().splitlines()) == 7 and not out.exists()
    part.write_text(part.read_text()[:-9], encoding="utf-8")  # killed within a line
    stops_at[0] = -1
    assert main(command) == 0 and answered == [3, 3, 3]
    assert "resumes: 5 of 8 samples are done" in capsys.readouterr().err and not part.exists()
    assert all(same(said(row), a["new"]) for row, a in zip(rows(out), one.answers(texts=TEXTS), strict=True))
    out.rename(part)  # of another command
    assert main([*command, "--head", "source"]) == 0
    assert "begins anew" in capsys.readouterr().err and len(rows(out)) == 8


def test_a_folder_of_images_and_names_of_files(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, root, out = served("classification-vit-photos"), tmp_path / "images", tmp_path / "out.jsonl"
    (root / "deep").mkdir(parents=True)
    for name, size in (("b", (90, 40)), ("deep/c", (40, 90))):
        Image.effect_noise(size, 90).convert("RGB").save(root / f"{name}.png")
    expected = one.predicted("predict_root", root)
    (root / "a.png").write_bytes(b"no image")
    (root / "notes.txt").write_text(f"{root}/b.png\n{root}/none.png\n")
    assert main(["predict", str(one.run), "--input", str(root), "--output", str(out)]) == 0
    found = rows(out)
    assert [row["file"] for row in found] == ["a.png", "b.png", "deep/c.png"] and "not an image" in found[0]["error"]
    assert all(same(said(row), wanted) for row, wanted in zip(found[1:], expected, strict=True))
    capsys.readouterr()
    assert main(["predict", str(one.run), "--input", str(root / "notes.txt")]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert same(said(printed[0]), expected[0]) and "cannot be opened" in printed[1]["error"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--input", "nothing.csv"], "--input: nothing.csv does not exist"),
        (["--input", "."], "is a folder, and the model takes texts"),
        (["--output", "out.txt"], "must end with .jsonl or .csv"),
        (["--output", "none/out.csv"], "does not exist"),
        (["--head", "old"], "--head"),
        (["--input", "experiments/digits/distill.yaml"], "unknown suffix"),
    ],
)
def test_bad_input_is_one_line(more: list[str], why: str, served: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(served("classification-bert").run), *more]) == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1


def test_a_named_column_must_be_there_and_two_commands_do_not_write_one_file(
    served: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    import sys

    run, file, out = served("classification-bert").run, tmp_path / "new.csv", tmp_path / "out.jsonl"
    file.write_text("text,headline\na text,its headline\n")
    command = ["predict", str(run), "--input", str(file), "--output", str(out), "--text_column"]
    assert main([*command, "headlin"]) == 2
    assert "has no column 'headlin'" in capsys.readouterr().err
    lock = (
        "import fcntl, sys; f = open(sys.argv[1], 'a+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", lock, f"{out}.part"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert main([*command, "headline"]) == 2
        assert "another process writes" in capsys.readouterr().err
        other.communicate(b"\n")
    assert main([*command, "headline"]) == 0
    assert same(said(rows(out)[0]), served("classification-bert").answers(texts=["its headline"])[0]["new"])


def test_where_memory_is_short_batches_become_smaller_and_answers_stay(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sft_lightning.serve.items import Item

    one = served("classification-bert")
    model, items = Model.load(one.run), [Item(str(n), text) for n, text in enumerate(TEXTS)]
    expected, ask, sizes = model.answer(items), Model.ask, list[int]()

    def short(self: Model, part: Any, source: bool) -> Any:
        sizes.append(len(part.at))
        if part.batch["x"]["input_ids"].numel() > 300:
            raise torch.OutOfMemoryError
        return ask(self, part, source)

    monkeypatch.setattr(Model, "ask", short)
    assert same(model.answer(items), expected) and len(set(sizes)) > 1


def test_half_precision_decides_alike(served: Serve) -> None:
    from sft_lightning.serve.items import Item

    run, items = served("classification-bert").run, [Item(str(n), text) for n, text in enumerate(TEXTS)]
    whole, half = (Model.load(run, half).answer(items) for half in (False, True))
    for one, other in zip(whole, half, strict=True):
        assert isinstance(one, dict) and isinstance(other, dict)
        assert other["new"]["probabilities"] == pytest.approx(one["new"]["probabilities"], abs=2e-2)
    assert whole != half


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "nobody/nothing"]) == 2
    assert "nobody/nothing: is neither a folder nor a model that the hub gives" in capsys.readouterr().err


def test_the_lock_is_held_until_the_output_is_there_and_an_output_that_came_meanwhile_stays(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    import sys

    file, out, tried = lines_of(tmp_path / "new.jsonl"), tmp_path / "out.csv", list[int]()
    command = ["predict", str(served("classification-bert").run), "--input", str(file), "--output", str(out)]
    lock = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    part = tmp_path / "out.csv.part"

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self == part:  # the last that is done
            tried.append(subprocess.run([sys.executable, "-c", lock, str(part)], capture_output=True).returncode)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        assert main(command) == 0 and tried == [1], "another process could begin anew while the output was written"
    part.unlink()
    out.unlink()
    identity = predicting.identity

    def meanwhile(*args: Any) -> str:
        out.write_text("of another command")
        return identity(*args)

    monkeypatch.setattr(predicting, "identity", meanwhile)
    assert main(command) == 2
    assert "another process has written" in capsys.readouterr().err
    assert out.read_text() == "of another command" and not part.exists()


def test_probabilities_of_words_are_not_those_of_labels(served: Serve, tmp_path: Path) -> None:
    one, file, out = served("tokens-bert"), tmp_path / "new.txt", tmp_path / "out.csv"
    labels = one.client.get("/model").json()["heads"]["new"]["labels"]
    file.write_text(" ".join(["fox"] * len(labels)) + "\n")  # as many words as labels
    assert main(["predict", str(one.run), "--input", str(file), "--output", str(out)]) == 0
    row = next(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert len(json.loads(row["probabilities"])) == len(labels) and not any("probability_" in name for name in row)


def test_a_full_disk_behind_standard_output_is_one_line(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    code = main(["predict", str(served("classification-bert").run), "--input", str(lines_of(tmp_path / "new.jsonl"))])
    monkeypatch.undo()
    with pytest.raises(OSError):
        full.close()
    assert code == 2 and "--output: standard output cannot be written: No space left" in capsys.readouterr().err


@pytest.mark.slow  # export tries the folder in a fresh process
def test_an_export_with_both_heads_answers_as_the_run(served: Serve, tmp_path: Path) -> None:
    from sft_lightning.export import export_run

    one, file = served("classification-bert"), lines_of(tmp_path / "new.jsonl")
    export_run(one.run, tmp_path / "export", "transformers", "both")
    for place, out in ((one.run, "run.jsonl"), (tmp_path / "export", "export.jsonl")):
        command = ["predict", str(place), "--input", str(file), "--output", str(tmp_path / out), "--head", "both"]
        assert main(command) == 0
    assert same(rows(tmp_path / "run.jsonl"), rows(tmp_path / "export.jsonl"))


def test_standard_output_gets_the_bytes_that_a_file_gets_whatever_they_look_like(
    served: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, root, out = served("classification-timm"), tmp_path / "images", tmp_path / "out.jsonl"
    root.mkdir()
    token = "hf_" + "AbCd1234" * 4
    Image.effect_noise((20, 30), 90).convert("RGB").save(root / f"{token}.png")
    capsys.readouterr()
    assert main(["predict", str(one.run), "--input", str(root)]) == 0
    printed = capsys.readouterr().out
    assert main(["predict", str(one.run), "--input", str(root), "--output", str(out)]) == 0
    assert printed == out.read_text() and token in printed, "an answer is starred"
