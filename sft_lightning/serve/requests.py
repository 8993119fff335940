"""Reads requests: JSON, or images and sounds as files of a form. What is wrong is said in one sentence."""

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from sft_lightning.core.errors import UserError, one_line
from sft_lightning.data.text.files import check_text
from sft_lightning.data.text.own_texts import check_words
from sft_lightning.serve.items import Item

JSON, FORM = "application/json", "multipart/form-data"
LONGEST = 300
"""Characters of a sentence, which may quote a request"""
Head = Literal["new", "source", "both"]


class Refused(Exception):
    """A request that is not answered: the status of the response, and one sentence."""

    def __init__(self, status: int, why: str) -> None:
        self.status, self.why = status, one_line(why)[:LONGEST]
        super().__init__(self.why)


class Sample(BaseModel):
    """A text, perhaps with the second of a pair; the words of a text that are to be tagged; a question with a context or with
    choices; or a prompt, an instruction or a conversation.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    text: str | None = None
    pair: str | None = None
    words: list[str] | None = None
    question: str | None = None
    context: str | None = None
    choices: list[str] | None = None
    prompt: str | None = None
    instruction: str | None = None
    input: str | None = None
    system: str | None = None
    messages: list[dict[str, Any]] | None = None


class Asked(BaseModel):
    """What to answer: texts, images or sounds."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"texts": ["a text"]}]})
    texts: list[str | Sample] | None = Field(
        None, description="texts, pairs or lists of words, for models that take texts"
    )
    images: list[str] | None = Field(None, description="encoded images in base64, for models that take images")
    sounds: list[str] | None = Field(None, description="encoded sounds in base64, for models that take sounds")
    head: Head = Field("new", description="the new head, the pretrained one, or both")


class Answered(BaseModel):
    """One sample's answer: what each head says, in the form of predictions.jsonl."""

    model_config = ConfigDict(extra="allow")
    new: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    truncated: bool | None = Field(None, description="true if the end of the text was cut off")


class Answers(BaseModel):
    """The answers, in the order of the samples."""

    answers: list[Answered]


class Problem(BaseModel):
    """Why a request is not answered."""

    error: str


async def read_body(request: Request, most: int) -> AsyncIterator[bytes]:
    """The parts of a body. Raises Refused as soon as it has more than `most` bytes."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise Refused(413, f"the request has {int(stated)} bytes, and at most {most} are read")
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"the request has more than {most} bytes")
        yield part


def check_type(request: Request) -> str:
    """The media type of a request. Raises Refused for one that cannot be read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, FORM):
        raise Refused(415, f"the content type is {one_line(kind) or 'missing'}, and must be {JSON} or {FORM}")
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise Refused(415, f"the content encoding is {one_line(coding)}, and must be identity")
    return kind


async def items_of(request: Request, kind: str, body: bytes, takes: str, most: int) -> tuple[list[Item], Head]:
    """The samples of a request, and the heads that it asks. Raises Refused.

    Args:
        request: The request.
        kind: Its media type.
        body: Its body.
        takes: 'texts', 'images' or 'sounds', as the model does.
        most: Most samples of a request.
    """
    if kind == FORM:
        files, head = await read_form(request, body, most)
        if takes == "texts":
            raise Refused(422, "the model takes texts, which are sent as JSON")
        items = [file_item(f"file[{n}]", held, takes) for n, held in enumerate(files)]
    else:
        asked = read_json(body)
        head = asked.head
        for other in ("texts", "images", "sounds"):
            if other != takes and getattr(asked, other) is not None:
                raise Refused(422, f"the model takes {takes}, not {other}")
        given: list[Any] = getattr(asked, takes) or []
        if len(given) > most:
            raise Refused(422, f"a request may have up to {most} samples, and this one has {len(given)}")
        if takes == "texts":
            items = [text_item(f"texts[{n}]", value) for n, value in enumerate(given)]
        else:
            items = [encoded_item(f"{takes}[{n}]", value, takes) for n, value in enumerate(given)]
    if not items:
        raise Refused(422, f"the request has no {takes}")
    return items, head


def read_json(body: bytes) -> Asked:
    """A body as typed values."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[-1]
        place = [str(part) for part in first["loc"] if part not in ("str", "Sample")]
        raise Refused(422, f"{'.'.join(place)}: {first['msg']}" if place else str(first["msg"])) from None


def text_item(name: str, value: str | Sample) -> Item:
    """One text, pair, list of words or row, checked as the files of `predict` are."""
    sample = Sample(text=value) if isinstance(value, str) else value
    row = {part: held for part, held in sample if held is not None and part not in ("text", "pair", "words")}
    try:
        plain = [part for part in ("text", "pair", "words") if getattr(sample, part) is not None]
        if row:
            if plain:
                raise UserError("data", f"{name} has {next(iter(row))} and {plain[0]}, and may have one of them")
            return Item(name, row=row)
        if sample.words is not None:
            if sample.text is not None or sample.pair is not None:
                raise UserError("data", f"{name} has words and a text, and may have one of them")
            return Item(name, words=tuple(check_words(sample.words, "words", name)))
        check_text(sample.text, "text", name, "data")
        if sample.pair is not None:
            check_text(sample.pair, "pair", name, "data")
    except UserError as error:
        raise Refused(422, error.problem) from None
    return Item(name, text=sample.text, pair=sample.pair)


def file_item(name: str, data: bytes, takes: str) -> Item:
    """One encoded image or sound."""
    return Item(name, image=data) if takes == "images" else Item(name, sound=data)


def encoded_item(name: str, value: str, takes: str) -> Item:
    """One image or sound of base64, perhaps as a data URL."""
    held = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return file_item(name, base64.b64decode(held, validate=True), takes)
    except (binascii.Error, ValueError):
        raise Refused(422, f"{name} is not base64") from None


async def read_form(request: Request, body: bytes, most: int) -> tuple[list[bytes], Head]:
    """The files of a form, and its field `head`."""

    async def parts() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await MultiPartParser(request.headers, parts(), max_files=most, max_fields=8).parse()
    except MultiPartException as error:
        raise Refused(422, f"the form cannot be read: {one_line(error.message)}") from None
    except (KeyError, ValueError):
        raise Refused(422, "the form cannot be read") from None
    try:
        files, head = [], "new"
        for name, value in form.multi_items():
            if name in ("file", "files") and isinstance(value, UploadFile):
                files.append(await value.read())
            elif name == "head" and value in ("new", "source", "both"):
                head = str(value)
            else:
                raise Refused(
                    422, f"the form may have files named file, and head: new, source or both; not {one_line(name)}"
                )
        return files, head  # type: ignore[return-value]
    finally:
        await form.close()
