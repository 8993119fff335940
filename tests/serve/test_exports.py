"""Exports of every format answer as the run does, whatever the order and the sizes of batches."""

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sft_lightning.cli.main import main
from sft_lightning.core.errors import UserError
from sft_lightning.export.card import write_card
from sft_lightning.export.formats import FORMATS, NEW, SOURCE
from sft_lightning.export.tuned import open_run
from sft_lightning.serve.answering import Answer, Model
from sft_lightning.serve.items import Item
from sft_lightning.serve.loading import graph_at, load_served
from tests.export.cases import CASES, make_run
from tests.networks.tiny import CHATML, byte_bpe, tiny_folder
from tests.refused import refused
from tests.serve.conftest import TEXTS
from tests.serve.hostile import images, items

MLP, TIMM = ("classification-mlp", "onnx"), ("classification-timm", "timm")
EVERY = [
    MLP,
    TIMM,
    *((name, "timm") for name in ("multi-label-timm", "regression-timm", "classification-timm-photos")),
    *((name, "onnx") for name, case in CASES.items() if case.format == "onnx"),
    *((name, "onnx") for name in ("classification-vit-photos", "multi-label-distilbert", "questions-none")),
    *((name, "transformers") for name in ("masks-segformer", "audio-wav2vec2", "speech-ctc")),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """`exported(case, format)`: a run and its export, which is not compared in another process; made once."""
    root, runs, made = tmp_path_factory.mktemp("exports"), dict[str, Path](), dict[tuple[str, str], Path]()

    def get(name: str, form: str) -> tuple[Path, Path]:
        if name not in runs:
            runs[name] = make_run(name, root / "cases")
        if (name, form) not in made:
            tuned, writer, folder = open_run(runs[name]), FORMATS[form](), root / form / name
            heads = (NEW, SOURCE) if tuned.network.source_head is not None else (NEW,)
            folder.mkdir(parents=True)
            writer.write(tuned, folder, heads, False)
            write_card(tuned, writer, folder, heads, {"heads": {}})
            made[name, form] = folder
        return runs[name], made[name, form]

    return get


def apart(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two answers differ by more than the tolerance of exports and the rounding of answers."""
    if isinstance(one, UserError) or isinstance(other, UserError):
        return [] if isinstance(one, UserError) and isinstance(other, UserError) else [f"{where}: {one} / {other}"]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in apart(one[name], other[name], f"{where}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [f for n, (a, b) in enumerate(zip(one, other, strict=True)) for f in apart(a, b, f"{where}[{n}]")]
    if isinstance(one, float) and isinstance(other, float):
        near = abs(one - other) <= 1e-5 * max(1.0, abs(one)) + 1.1e-6
        return [] if near else [f"{where}: {one} / {other}"]
    return [] if one == other else [f"{where}: {one!r:.80} / {other!r:.80}"]


@pytest.mark.parametrize(
    ("name", "form"), [pytest.param(*e, marks=() if e in (MLP, TIMM) else pytest.mark.slow) for e in EVERY]
)
def test_an_export_answers_as_the_run_alone_together_and_in_any_order(
    name: str, form: str, exported: Callable[[str, str], tuple[Path, Path]]
) -> None:
    run, folder = exported(name, form)
    one, other = Model.load(run), Model.load(folder)
    given = items(one.reader.kind)
    wanted = one.answer(given)
    assert any(not isinstance(answer, UserError) for answer in wanted)
    order = np.random.default_rng(1).permutation(len(given)).tolist()
    small = Model.load(folder)
    small.reader.share = 1 / 128
    found: dict[str, list[Answer | UserError]] = {
        "together": other.answer(given),
        "alone": [other.answer([item])[0] for item in given],
        "in small batches": small.answer(given),
        "in another order": [other.answer([given[n] for n in order])[order.index(n)] for n in range(len(given))],
    }
    for how, answers in found.items():
        assert not (wrong := apart(wanted, answers)), f"{how}: {wrong[:3]}"
    assert other.tasks.keys() == one.tasks.keys()
    labels = [{head: task.info.labels for head, task in model.tasks.items()} for model in (one, other)]
    assert labels[0] == labels[1]


def test_predict_takes_the_folder_of_a_graph_and_the_graph_itself(
    exported: Callable[[str, str], tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = exported(*MLP)
    (tmp_path / "images").mkdir()
    for n in range(3):
        Image.effect_noise((8, 8), 90).save(tmp_path / "images" / f"{n}.png")
    said = []
    for place in (run, folder, folder / "model.onnx"):
        capsys.readouterr()
        assert main(["predict", str(place), "--input", str(tmp_path / "images"), "--head", "both"]) == 0
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert not apart(said[0], said[1]) and said[1] == said[2] and len(said[0]) == 3
    assert main(["predict", str(folder), "--input", str(tmp_path / "images"), "--precision", "bf16"]) == 2
    assert "--precision: bf16 has no effect on a graph" in capsys.readouterr().err


def test_a_graph_that_is_damaged_or_another_is_refused(
    exported: Callable[[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    import onnx

    folder = exported(*MLP)[1]
    copy = tmp_path / "copy"
    copytree(folder, copy)
    graph = onnx.load(str(folder / "model.onnx"))
    (copy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-500])
    with refused(copy / "model.onnx", "not a graph that onnxruntime runs"):
        load_served(copy)
    kept = [p for p in graph.metadata_props if p.key != "sft_lightning"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    onnx.save(graph, str(copy / "model.onnx"))
    with refused(copy / "model.onnx", "do not say what it was exported from", "export the run again"):
        load_served(copy)
    with refused(tmp_path, "has neither config.json nor model.onnx"):
        load_served(tmp_path)


def test_weights_in_other_files_are_not_read(exported: Callable[[str, str], tuple[Path, Path]], tmp_path: Path) -> None:
    """A graph may name any file of the machine as its weights."""
    import onnx

    graph = onnx.load(str(exported(*MLP)[1] / "model.onnx"))
    onnx.save(graph, str(tmp_path / "model.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").is_file() and graph_at(tmp_path) == tmp_path / "model.onnx"
    with refused(tmp_path / "model.onnx", "not a graph that onnxruntime runs"):
        load_served(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification-bert-onnx", "classification-timm-onnx"])
def test_answers_of_int8_do_not_depend_on_the_other_samples(
    name: str, exported: Callable[[str, str], tuple[Path, Path]]
) -> None:
    from sft_lightning.export.int8 import INT8, add_int8

    run, folder = exported(name, "onnx")
    add_int8(open_run(run), folder, (NEW, SOURCE))
    model = Model.load(folder / INT8)
    given = items(model.reader.kind)
    together = model.answer(given)
    assert not apart(together, [model.answer([item])[0] for item in given])
    assert together != Model.load(folder).answer(given)


SEEN = [
    TIMM,
    *((name, form) for name, form in (("classification-vit", "transformers"), ("classification-vit", "onnx"))),
]


@pytest.mark.parametrize(
    ("name", "form"), [pytest.param(*e, marks=() if e == TIMM else pytest.mark.slow) for e in SEEN]
)
def test_the_readme_reads_turned_deep_and_transparent_images_as_the_run_does(
    name: str, form: str, exported: Callable[[str, str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = exported(name, form)
    model = Model.load(run)
    height, width = model.network.input_view.size or (0, 0)
    monkeypatch.chdir(folder)
    here: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[0], here)
    given = images((height, width))
    for item, answer in zip(given, model.answer(given), strict=True):
        assert isinstance(answer, dict)
        said = torch.tensor(here["predict"](Image.open(BytesIO(item.image or b"")))).softmax(0).tolist()
        assert said == pytest.approx(answer["new"]["probabilities"], abs=2e-6), item.name


def test_a_classifier_of_another_library_is_answered_as_its_own_pipeline_does(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

    folder = tiny_folder(tmp_path / "bert", "bert", "sequence")
    config = AutoConfig.from_pretrained(folder)
    config.id2label = {0: "zebra", 1: "ant", 2: "LABEL_0"}  # neither in the order of the alphabet nor of numbers
    AutoModelForSequenceClassification.from_pretrained(folder, config=config).save_pretrained(folder)
    said = pipeline("text-classification", model=folder)(TEXTS[:2], top_k=None)
    model = Model.load(folder)
    assert model.about()["heads"]["new"]["labels"] == ["zebra", "ant", "LABEL_0"] and set(model.tasks) == {"new"}
    for row, answer in zip(said, model.answer([Item("text", text) for text in TEXTS[:2]]), strict=True):
        assert isinstance(answer, dict)
        wanted = {one["label"]: one["score"] for one in row}
        assert answer["new"]["probabilities"] == pytest.approx(
            [wanted[n] for n in ("zebra", "ant", "LABEL_0")], abs=2e-6
        )
        assert answer["new"]["label"] == max(wanted, key=lambda name: wanted[name])


@pytest.mark.slow
def test_models_of_images_and_of_tokens_and_those_that_write_are_served_too(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(net, str(tmp_path / "timm"), model_config={"label_names": ["c", "a", "b"]}, safe_serialization=True)
    height, width = timm.data.resolve_model_data_config(net)["input_size"][1:]
    see = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    model, given = Model.load(tmp_path / "timm"), images((height, width))[:1]
    (answer,) = model.answer(given)
    with torch.no_grad():
        turned = ImageOps.exif_transpose(Image.open(BytesIO(given[0].image or b"")))
        wanted = net(see(turned.convert("RGB"))[None]).softmax(-1)[0].tolist()
    assert isinstance(answer, dict) and answer["new"]["probabilities"] == pytest.approx(wanted, abs=1e-5)
    assert model.about()["heads"]["new"]["labels"] == ["c", "a", "b"]
    tagger = tiny_folder(tmp_path / "tagger", "bert", "tokens")
    (tagged,) = Model.load(tagger).answer([Item("text", words=("one", "two"))])
    assert isinstance(tagged, dict) and len(tagged["new"]["tags"]) == 2
    writer = tiny_folder(tmp_path / "writer", "t5", "seq2seq")
    (written,) = Model.load(writer).answer([Item("text", "one two")])
    whole, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(writer), AutoTokenizer.from_pretrained(writer)
    own = whole.generate(**tokenizer("one two", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    said = tokenizer.decode(own[0], skip_special_tokens=True)
    assert isinstance(written, dict) and said and written["new"]["text"].startswith(said)
    chat = tiny_folder(tmp_path / "chat", "llama", "lm", tokenizer=byte_bpe(pad="<pad>", template=CHATML))
    (answered,) = Model.load(chat).answer([Item("text", "one two")])
    whole, tokenizer = AutoModelForCausalLM.from_pretrained(chat), AutoTokenizer.from_pretrained(chat)
    asked = [{"role": "user", "content": "one two"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    own = whole.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    said = tokenizer.decode(own, skip_special_tokens=True)
    assert isinstance(answered, dict) and answered["new"]["text"].startswith(said)
    with refused(plain := tiny_folder(tmp_path / "plain", "gpt2", "lm"), "has no network that sft_lightning serves"):
        Model.load(plain)
