"""The page in headless Chromium, on a real socket. Skipped where there is no browser."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
import uvicorn
from PIL import Image

from sft_lightning.serve.answering import Model
from sft_lightning.serve.app import Service
from sft_lightning.serve.server import Server, listen
from tests.serve.conftest import Served, encoded
from tests.serve.waiting import until


@contextmanager
def online(model: Model) -> Iterator[str]:
    """The address of a service in this process."""
    server = Server(uvicorn.Config(Service(lambda: model).app, log_level="error"))
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        until(lambda: server.started, "the server runs")
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def opened(chromium: Any, address: str) -> Iterator[Any]:
    """The page, which may say nothing in the console, and ask no other server."""
    said: list[str] = []
    context = chromium.new_context()
    page = context.new_page()
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: said.append(f"error: {e}"))
    page.on("request", lambda r: said.extend([] if r.url.startswith((address, "blob:", "data:")) else [r.url]))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    refused = "Failed to load resource: the server responded with a status of 422"
    assert not [line for line in said if refused not in line and "/favicon.ico" not in line and "404" not in line]


def test_the_page_shows_what_both_heads_say(served: Callable[[str], Served], chromium: Any, tmp_path: Path) -> None:
    one = served("classification-bert")
    with online(one.model) as address, opened(chromium, address) as page:
        page.click("#send")
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "texts[0]: text is empty"
        page.fill("#text", "<b>The quick brown fox</b>")
        page.click("#send")
        page.wait_for_selector("[data-head=source]")
        answer = one.answers(texts=["<b>The quick brown fox</b>"], head="both")[0]
        for head in ("new", "source"):
            assert page.inner_text(f"[data-head={head}] .said") == answer[head]["label"]
        assert page.is_hidden("#error") and page.is_hidden("#images")
    tags = served("tokens-bert")
    with online(tags.model) as address, opened(chromium, address) as page:
        page.fill("#text", "<b>🦊</b> lives in New York.")
        page.click("#send")
        page.wait_for_selector("[data-head=new] p")
        assert page.evaluate("document.querySelectorAll('[data-head] b').length") == 0
        marked = page.evaluate("[...document.querySelectorAll('[data-head=new] mark')].map((m) => m.firstChild.data)")
        said = tags.answers(texts=["<b>🦊</b> lives in New York."])[0]["new"]
        assert marked == [e["text"] for e in said["entities"]]
    photos = served("classification-vit-photos")
    file = tmp_path / "image.png"
    Image.effect_noise((90, 60), 80).save(file)
    with online(photos.model) as address, opened(chromium, address) as page:
        page.set_input_files("#file", file)
        page.click("#send")
        page.wait_for_selector("[data-head=source]")
        assert page.inner_text("[data-head=new] .said") in ("dog", "elk")
        assert page.evaluate("document.querySelector('#drop img').complete")


@pytest.mark.slow
def test_the_page_has_a_field_for_each_kind_of_input(
    served: Callable[[str], Served], chromium: Any, tmp_path: Path
) -> None:
    questions = served("questions-bert")
    row = {"question": "Where does he live?", "context": "Peter7 lives in <b>town</b> 7."}
    with online(questions.model) as address, opened(chromium, address) as page:
        for name, value in row.items():
            page.fill(f"#part-{name}", value)
        page.click("#send")
        page.wait_for_selector("[data-head=new] .said")
        assert page.inner_text("[data-head=new] .said") == questions.answers(texts=[row])[0]["new"]["answer"]
        assert page.is_hidden("#texts") and page.is_hidden("#images")
    choices = served("choices-bert")
    with online(choices.model) as address, opened(chromium, address) as page:
        page.fill("#part-question", "What is it?")
        page.fill("#part-choices", "a fox\na dog\n")
        page.click("#send")
        page.wait_for_selector("[data-head=new] .said")
        said = choices.answers(texts=[{"question": "What is it?", "choices": ["a fox", "a dog"]}])[0]["new"]
        assert page.inner_text("[data-head=new] .said") == said["text"]
        assert set(page.locator("[data-head=new] .row span:first-child").all_inner_texts()) == {"a fox", "a dog"}
    sounds, file = served("audio-mel"), tmp_path / "sound.wav"
    soundfile.write(file, np.random.default_rng(0).standard_normal(8000) / 9, 8000)
    with online(sounds.model) as address, opened(chromium, address) as page:
        page.set_input_files("#file", file)
        page.wait_for_selector("audio")
        page.click("#send")
        page.wait_for_selector("[data-head=new] .said")
        assert page.inner_text("[data-head=new] .said") == sounds.answers(sounds=[encoded(file)])[0]["new"]["label"]
    masks, image = served("masks-segformer"), tmp_path / "image.png"
    Image.effect_noise((40, 30), 80).convert("RGB").save(image)
    with online(masks.model) as address, opened(chromium, address) as page:
        page.set_input_files("#file", image)
        page.click("#send")
        page.wait_for_selector("[data-head=new] img")
        assert page.evaluate("document.querySelector('[data-head=new] img').naturalWidth") == 40
