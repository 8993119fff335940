"""`serve` as a process: many clients at once, signals, and what it refuses to start with."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sft_lightning.cli.main import main
from tests.export.cases import make_run
from tests.serve.conftest import TEXTS
from tests.serve.test_answers import same
from tests.serve.test_requests import BAD
from tests.serve.waiting import until


@contextmanager
def started(*arguments: object) -> Iterator[tuple[Any, str]]:
    """A ready process, and its address."""
    command = [sys.executable, "-m", "sft_lightning", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        lines: list[str] = []
        while not any("is ready" in line for line in lines):
            line = process.stdout.readline()
            assert line, f"it ended before: {process.communicate()}"
            lines.append(line)
        yield process, lines[-1].split()[1]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_200_requests_at_once_with_bad_ones_among_them(tmp_path: Path) -> None:
    run = make_run("tokens-bert", tmp_path)
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert main(["predict", "--run", str(run), "--data.init_args.predict", str(file)]) == 0
    lines = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
    expected = {
        text: {n: v for n, v in said.items() if n not in ("index", "row", "line")}
        for text, said in zip(TEXTS, lines, strict=True)
    }
    asked: list[Any] = [TEXTS[n % len(TEXTS)] for n in range(150)]
    asked += [bad for bad in BAD if "words" not in bad[1] and "up to" not in bad[1]][:25] * 2
    asked = (asked + ["\u200b \u200b", "   "] * 9)[:200]
    random.Random(0).shuffle(asked)
    with started(run) as (process, address), httpx.Client(base_url=address, timeout=60) as client:

        def ask(what: Any) -> Any:
            if isinstance(what, str):
                return client.post("/predict", json={"texts": [what]})
            return client.post("/predict", content=what[2], headers=what[3])

        with ThreadPoolExecutor(200) as pool:
            responses = list(pool.map(ask, asked))
        for what, response in zip(asked, responses, strict=True):
            if isinstance(what, tuple):
                assert response.status_code == what[0], f"{what}: {response.text}"
                assert list(response.json()) == ["error"]
            elif what in expected:
                assert response.status_code == 200, response.text
                assert same(response.json()["answers"][0]["new"], expected[what]), what
            else:
                assert response.status_code in (200, 422), response.text
        said = client.get("/metrics").text
        batches = float(next(line for line in said.splitlines() if line.startswith("sft_batch_size_count")).split()[1])
        assert batches < 150, "no two requests shared a batch"
        # What is in flight at SIGTERM is answered.
        late: list[Any] = []
        thread = threading.Thread(target=lambda: late.append(client.post("/predict", json={"texts": TEXTS * 60})))
        thread.start()
        until(lambda: "sft_waiting 0.0" not in client.get("/metrics").text, "a long request waits")
        process.send_signal(signal.SIGTERM)
        thread.join()
        process.send_signal(signal.SIGTERM)  # asked again while it ends
        out, err = process.communicate(timeout=60)
        assert late[0].status_code == 200 and len(late[0].json()["answers"]) == len(TEXTS) * 60
        assert process.returncode == 0 and not err, err
        assert "stopped" in out


@pytest.mark.slow
def test_ctrl_c_ends_it_normally_and_broken_clients_do_no_harm(tmp_path: Path) -> None:
    run = make_run("classification-mlp", tmp_path)
    with started(run, "--timeout_s", 3) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        open_ones = []
        half = b"POST /predict HTTP/1.1\r\ncontent-type: application/json\r\nhost: x\r\ncontent-length: 900\r\n\r\n{"
        for sent in (b"", b"POST /pre", b"\x00\xff\r\n\r\n", half, b"GET / HTTP/9\r\n\r\n"):
            held = socket.create_connection((host, int(port)))
            held.sendall(sent)
            open_ones.append(held)
        slow = socket.create_connection((host, int(port)))
        slow.sendall(half)
        gone = socket.create_connection((host, int(port)))
        gone.sendall(half)
        gone.close()
        assert b" 504 " in slow.recv(4096)
        assert httpx.get(f"{address}/ready").status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err, err
        assert time.monotonic() - began < 15
        for held in open_ones:
            held.close()


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    capfd.readouterr()
    with ThreadPoolExecutor(1) as other:  # the browser of other tests keeps the main thread's event loop
        assert other.submit(main, ["serve", *map(str, arguments)]).result() == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("sft-lightning: error: ")
    return said


def test_what_cannot_be_served_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot be used" in refused(capfd, tmp_path, "--port", taken.getsockname()[1])
    assert "--max_batch: must be" in refused(capfd, tmp_path, "--max_batch", 0)
    assert "--timeout_s: must be" in refused(capfd, tmp_path, "--timeout_s", "nan")
    assert "--host" in refused(capfd, tmp_path, "--host", "no.such.host.invalid")
    assert "is not a folder" in refused(capfd, tmp_path / "nothing", "--port", 0)
    assert "has neither config.json nor model.onnx" in refused(capfd, tmp_path, "--port", 0)
    (tmp_path / "model.onnx").touch()
    assert "is not a graph that onnxruntime runs" in refused(capfd, tmp_path, "--port", 0)
    (tmp_path / "model.onnx").unlink()

    def write(**ours: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "sft_lightning": ours}))
        return tmp_path

    task = {"name": "classification", "num_outputs": 2}
    assert "only networks of sft_lightning" in refused(capfd, write(network="os.system", task=task), "--port", 0)
    remote = write(network="sft_lightning.networks.small.MLP", task=task, init_args={"trust_remote_code": True})
    assert "run other code" in refused(capfd, remote, "--port", 0)
    other = {"transforms": [{"class_path": "os.system"}]}
    named = write(network="sft_lightning.networks.small.MLP", task=task, init_args=other)
    assert "run other code" in refused(capfd, named, "--port", 0)
    monkeypatch.setattr("sft_lightning.cli.serve.find_spec", lambda name: None)
    assert "pip install 'sft-lightning[serve]'" in refused(capfd, tmp_path)
