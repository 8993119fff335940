"""Small finished runs of each task on each network family, made by `fit`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from sft_lightning.cli.main import main
from tests.data import test_contract
from tests.data.text_files import texts, write_jsonl
from tests.data.vision_files import write_folder, write_listed, write_masks
from tests.networks.test_contract import of_transformers, segformer, vit
from tests.networks.tiny import CHATML, byte_bpe, tiny_folder
from tests.networks.tiny_audio import MASKED, tiny_ast, tiny_ctc, tiny_wav2vec2, tiny_whisper
from tests.networks.vision import tiny_detr

Arguments = Callable[[Path], dict[str, Any]]


OLD = [0, 1, 2, 3, 4]
"""Digits that the builtin network knows"""


class CaseOf(NamedTuple):
    """A task on a network family."""

    data: str
    network: str
    arguments: Arguments
    format: str
    heads: str = "both"
    data_arguments: dict[str, Any] = {}
    retention: bool = False


def backbone(name: str) -> Callable[[str], Arguments]:
    """An export of a pretrained network of our own, to start from."""

    def write(model: str) -> Arguments:
        def made(folder: Path) -> dict[str, Any]:
            from sft_lightning.core.structures import TaskInfo
            from sft_lightning.networks import build_network

            given = {"name": model, "image_size": 32}
            task = TaskInfo("classification", 3, ["a", "b", "c"])
            build_network({"class_path": name, "init_args": given}, task).save_pretrained(str(folder / "old"))
            return {**given, "pretrained": str(folder / "old")}

        return made

    return write


def started_vit(folder: Path) -> dict[str, Any]:
    from sft_lightning.core.structures import TaskInfo
    from sft_lightning.networks import build_network

    spec = {"class_path": "TransformersImage", "init_args": vit(folder)}
    build_network(spec, TaskInfo("classification", 3, ["a", "b", "c"])).save_pretrained(str(folder / "old"))
    return {"pretrained": str(folder / "old")}


def started(name: str, arguments: dict[str, Any], task: str = "classification") -> Arguments:
    """A network of ours that starts from an export of one with random weights, and so keeps a source head."""

    def made(folder: Path) -> dict[str, Any]:
        from sft_lightning.core.structures import TaskInfo
        from sft_lightning.networks import build_network

        task_info = TaskInfo(task, 3, ["a", "b", "c"])
        build_network({"class_path": name, "init_args": arguments}, task_info).save_pretrained(str(folder / "old"))
        rest = {n: v for n, v in arguments.items() if n != "config"}
        return {**rest, "pretrained": str(folder / "old")}

    return made


def values(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Texts with a value each."""
    for split, count in (("train", 40), ("test", 9)):
        rows = [{"text": f"{split} {t}", "label": i / 7 + 0.05} for i, t in enumerate(texts(count))]
        write_jsonl(root / f"{split}.jsonl", rows)
    return {"train": str(root / "train.jsonl"), "test": str(root / "test.jsonl"), "task": "regression"}


def chats(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Short conversations, for a chat template."""
    rows = [
        [{"role": "user", "content": f"{i} and?"}, {"role": "assistant", "content": f"{i + 1}."}] for i in range(24)
    ]
    said = [{"messages": messages} for messages in rows]
    return {"train": write_jsonl(root / "train.jsonl", said), "test": write_jsonl(root / "test.jsonl", said[:9])}


def unanswered(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Questions of which every other one has no answer in its context."""
    made = []
    for i in range(40):
        text, answer = f"Peter{i} lives in town {i}.", f"town {i}"
        answers = (
            {"text": [answer], "answer_start": [text.index(answer)]} if i % 2 else {"text": [], "answer_start": []}
        )
        made.append({"question": "Where does he live?", "context": text, "answers": answers})
    return {"train": write_jsonl(root / "train.jsonl", made), "test": write_jsonl(root / "test.jsonl", made[:9])}


def points(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Images with two numbers each."""
    files = write_listed(root, {"x": lambda i: str(i / 9), "y": lambda i: str(1 - i / 7)})
    return {**files, "task": "regression", "label_columns": ["x", "y"]}


def scenes(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Images with masks that are larger than the network's windows."""
    write_masks(root / "scenes", 12, side=70)
    return {"root": str(root / "scenes")}


def mixed(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Images with masks, each pair of a size of its own."""
    from PIL import Image

    write_masks(root / "mixed", 12, side=70)
    for folder in ("images", "masks"):
        for number in range(12):
            file = root / "mixed" / folder / f"{number}.png"
            with Image.open(file) as image:
                image.crop((0, 0, 40 + 2 * number, 66 - 2 * number)).save(file)
    return {"root": str(root / "mixed")}


def photos(root: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Colour images that are wider than high, and larger than the networks', so that each library resizes and crops them."""
    write_folder(root / "photos", {"dog": 20, "elk": 20}, side=70)
    return {"root": str(root / "photos")}


def llama(folder: Path) -> dict[str, Any]:
    template = byte_bpe(pad="<pad>", template=CHATML)
    return {"pretrained": tiny_folder(folder / "llama", "llama", "lm", tokenizer=template), "max_new_tokens": 12}


def lora(folder: Path) -> dict[str, Any]:
    return {
        **of_transformers("bert", "sequence")(folder),
        "transforms": [{"class_path": "LoRA", "init_args": {"r": 2}}],
    }


def old_and_new(folder: Path, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """Digits of new labels beside a few of old ones."""
    of = {
        name: {"class_path": "Digits", "init_args": {"classes": own}} for name, own in (("new", [5, 6]), ("old", OLD))
    }
    return {**of, "rehearse": 2}


OWN: dict[str, tuple[str, Callable[[Path, pytest.MonkeyPatch | None], dict[str, Any]]]] = {
    "values": ("TextTable", values),
    "chats": ("Instructions", chats),
    "unanswered": ("SQuAD", unanswered),
    "photos": ("ImageFolder", photos),
    "large scenes": ("MaskFolder", scenes),
    "mixed scenes": ("MaskFolder", mixed),
    "two numbers": ("ImageTable", points),
    "old and new": ("Extend", old_and_new),
}
"""Data beside the examples of tests/data/test_contract.py: their module, and what writes them"""
MLP = {"in_features": 64, "hidden": [128, 64], "pretrained": "builtin:digits-0-4"}
CASES = {
    "classification-mlp": CaseOf("Digits", "MLP", lambda _: MLP, "safetensors", retention=True),
    "classification-mlp-extended": CaseOf("old and new", "MLP", lambda _: MLP, "safetensors"),
    "classification-mlp-onnx": CaseOf("Digits", "MLP", lambda _: MLP, "onnx", retention=True),
    "classification-lenet": CaseOf(
        "Digits", "LeNet", lambda _: {"channels": 1, "image_size": 16}, "safetensors", "new"
    ),
    "classification-timm": CaseOf("Digits", "Timm", backbone("Timm")("test_resnet"), "timm"),
    "classification-torchvision": CaseOf("Digits", "Torchvision", backbone("Torchvision")("mnasnet0_5"), "safetensors"),
    "classification-vit": CaseOf("Digits", "TransformersImage", started_vit, "transformers"),
    "multi-label-timm": CaseOf("MultiLabelImages", "Timm", backbone("Timm")("test_resnet"), "timm"),
    "multi-label-vit": CaseOf("CocoLabels", "TransformersImage", started_vit, "transformers"),
    "multi-label-onnx": CaseOf("MultiLabelImages", "Timm", backbone("Timm")("test_resnet"), "onnx"),
    "regression-timm": CaseOf("ImageTable", "Timm", backbone("Timm")("test_resnet"), "timm"),
    "regression-vit": CaseOf("two numbers", "TransformersImage", started_vit, "transformers"),
    "classification-timm-photos": CaseOf("photos", "Timm", backbone("Timm")("test_resnet"), "onnx"),
    "classification-vit-photos": CaseOf("photos", "TransformersImage", started_vit, "transformers"),
    "classification-bert": CaseOf("TextTable", "TransformersText", of_transformers("bert", "sequence"), "transformers"),
    "classification-lora": CaseOf("TextTable", "TransformersText", lora, "transformers"),
    "classification-gpt2": CaseOf("TextTable", "TransformersText", of_transformers("gpt2", "sequence"), "transformers"),
    "classification-pooled": CaseOf(
        "TextTable",
        "TransformersText",
        lambda f: {**of_transformers("bert", "none")(f), "pooling": "mean"},
        "safetensors",
        "new",
    ),
    "classification-lstm": CaseOf(
        "TextTable", "LSTM", lambda _: {"embedding_dim": 8, "hidden": 8, "vocabulary_size": 60}, "safetensors", "new"
    ),
    "regression-roberta": CaseOf("values", "TransformersText", of_transformers("roberta", "sequence"), "transformers"),
    "multi-label-distilbert": CaseOf(
        "MultiLabelTable", "TransformersText", of_transformers("distilbert", "sequence"), "transformers"
    ),
    "classification-timm-onnx": CaseOf("Digits", "Timm", backbone("Timm")("test_resnet"), "onnx"),
    "classification-torchvision-onnx": CaseOf("Digits", "Torchvision", backbone("Torchvision")("mnasnet0_5"), "onnx"),
    "classification-vit-onnx": CaseOf("Digits", "TransformersImage", started_vit, "onnx"),
    "classification-vit-photos-onnx": CaseOf("photos", "TransformersImage", started_vit, "onnx"),
    "classification-bert-onnx": CaseOf("TextTable", "TransformersText", of_transformers("bert", "sequence"), "onnx"),
    "tokens-bert-onnx": CaseOf("CoNLL", "TransformersTokens", of_transformers("distilbert", "tokens"), "onnx"),
    "choices-bert-onnx": CaseOf("MultipleChoice", "TransformersChoice", of_transformers("bert", "choices"), "onnx"),
    "questions-bert-onnx": CaseOf("SQuAD", "TransformersQA", of_transformers("bert", "qa"), "onnx"),
    "tokens-bert": CaseOf("CoNLL", "TransformersTokens", of_transformers("bert", "tokens"), "transformers"),
    "choices-bert": CaseOf("MultipleChoice", "TransformersChoice", of_transformers("bert", "choices"), "transformers"),
    "questions-bert": CaseOf("SQuAD", "TransformersQA", of_transformers("bert", "qa"), "transformers"),
    "questions-none": CaseOf("unanswered", "TransformersQA", of_transformers("bert", "qa"), "transformers"),
    "lm-llama": CaseOf("chats", "TransformersLM", llama, "transformers", "new"),
    "lm-bfloat16": CaseOf(
        "chats", "TransformersLM", lambda f: {**llama(f), "dtype": "bfloat16"}, "transformers", "new"
    ),
    "masks-unet": CaseOf(
        "MaskFolder",
        "UNet",
        started("UNet", {"channels": 3, "widths": [4, 6]}, "semantic_segmentation"),
        "safetensors",
        data_arguments={"val_fraction": 0.5},
    ),
    "masks-windows": CaseOf(
        "large scenes",
        "UNet",
        started("UNet", {"channels": 3, "widths": [4, 6]}, "semantic_segmentation"),
        "safetensors",
        data_arguments={"val_fraction": 0.5, "window": 32},
    ),
    "masks-sizes": CaseOf(
        "mixed scenes",
        "UNet",
        started("UNet", {"channels": 3, "widths": [4, 6]}, "semantic_segmentation"),
        "safetensors",
        data_arguments={"val_fraction": 0.5, "window": 32, "eval_batch_size": 1},
    ),
    "masks-timm": CaseOf(
        "MaskFolder",
        "TimmSegmentation",
        lambda _: {"name": "test_resnet", "width": 8},
        "safetensors",
        "new",
        {"val_fraction": 0.5},
    ),
    "masks-torchvision": CaseOf(
        "MaskFolder",
        "TorchvisionSegmentation",
        lambda _: {"name": "lraspp_mobilenet_v3_large"},
        "safetensors",
        "new",
        {"image_size": 40, "val_fraction": 0.5},
    ),
    "masks-segformer": CaseOf(
        "MaskFolder",
        "TransformersSegmentation",
        started("TransformersSegmentation", segformer(Path()), "semantic_segmentation"),
        "transformers",
        data_arguments={"image_size": 32, "val_fraction": 0.5},
    ),
    **{
        f"masks-{name}-onnx": CaseOf("MaskFolder", network, arguments, "onnx", heads, {"val_fraction": 0.5, **size})
        for name, network, arguments, heads, size in (
            (
                "unet",
                "UNet",
                started("UNet", {"channels": 3, "widths": [4, 6]}, "semantic_segmentation"),
                "both",
                dict[str, Any](),
            ),
            ("timm", "TimmSegmentation", lambda _: {"name": "test_resnet", "width": 8}, "new", dict[str, Any]()),
            (
                "segformer",
                "TransformersSegmentation",
                started("TransformersSegmentation", segformer(Path()), "semantic_segmentation"),
                "both",
                {"image_size": 32},
            ),
        )
    },
    "boxes-timm": CaseOf(
        "CocoDetection",
        "TimmDetection",
        started("TimmDetection", {"name": "test_resnet", "width": 64, "convolutions": 1}, "object_detection"),
        "safetensors",
        data_arguments={"image_size": 64},
    ),
    "boxes-torchvision": CaseOf(
        "VOCDetection",
        "TorchvisionDetection",
        lambda _: {"name": "ssdlite320_mobilenet_v3_large"},
        "safetensors",
        "new",
        {"image_size": 64},
    ),
    "boxes-faster-rcnn": CaseOf(
        "CocoDetection",
        "FasterRCNN",
        lambda _: {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8},
        "safetensors",
        "new",
        {"image_size": 64},
    ),
    "boxes-detr": CaseOf(
        "YOLOFolder",
        "TransformersDetection",
        started("TransformersDetection", {"config": tiny_detr()}, "object_detection"),
        "safetensors",
        data_arguments={"image_size": 64},
    ),
    "audio-mel": CaseOf(
        "AudioFolder",
        "MelCNN",
        started("MelCNN", {"sample_rate": 8000, "mels": 8, "channels": [4, 6], "hidden": 8}),
        "safetensors",
    ),
    "audio-wav2vec2": CaseOf(
        "AudioFolder", "TransformersAudio", started("TransformersAudio", {"config": tiny_wav2vec2()}), "transformers"
    ),
    "audio-masked": CaseOf(
        "AudioFolder", "TransformersAudio", lambda _: {"config": tiny_wav2vec2(**MASKED)}, "transformers", "new"
    ),
    "audio-ast": CaseOf("AudioFolder", "TransformersAudio", lambda _: {"config": tiny_ast()}, "transformers", "new"),
    "audio-mel-onnx": CaseOf(
        "AudioFolder",
        "MelCNN",
        started("MelCNN", {"sample_rate": 8000, "mels": 8, "channels": [4, 6], "hidden": 8}),
        "onnx",
    ),
    **{
        f"audio-{name}-onnx": CaseOf("AudioFolder", "TransformersAudio", arguments, "onnx", heads)
        for name, arguments, heads in (
            ("wav2vec2", started("TransformersAudio", {"config": tiny_wav2vec2()}), "both"),
            ("masked", lambda _: {"config": tiny_wav2vec2(**MASKED)}, "new"),
            ("ast", lambda _: {"config": tiny_ast()}, "new"),
        )
    },
    "speech-ctc": CaseOf(
        "Speech",
        "TransformersCTC",
        lambda f: {"pretrained": tiny_ctc(f / "ctc")},
        "transformers",
        "new",
        {"task": "ctc"},
    ),
    "speech-whisper": CaseOf(
        "Speech", "TransformersSpeech", lambda f: {"pretrained": tiny_whisper(f / "whisper")}, "transformers", "new"
    ),
    "seq2seq-t5": CaseOf("TextPairs", "TransformersSeq2Seq", of_transformers("t5", "seq2seq"), "transformers", "new"),
}
"""Name: a task on a network family, with the format that it is exported in"""


def make_run(name: str, root: Path, *more: object, patch: pytest.MonkeyPatch | None = None) -> Path:
    """Fits a case for one step; returns the run's directory."""
    case, folder = CASES[name], root / name
    folder.mkdir(parents=True)
    data, write = OWN.get(case.data) or (case.data, test_contract.EXAMPLES[case.data])
    given: dict[str, Any] = write(folder, patch)  # type: ignore[arg-type]
    extra = {"classes": [5, 6, 7, 8, 9]} if case.data == "Digits" else {}
    small = {"batch_size": 8, "val_fraction": 0.25}
    config: dict[str, Any] = {
        "trainer": {"accelerator": "cpu", "max_steps": 1},
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.01}},
        "network": {"class_path": case.network, "init_args": case.arguments(folder)},
        "data": {
            "class_path": data,
            "init_args": {**small, **given, **extra, **case.data_arguments},
        },
        "experiment": name,
        "wandb": "disabled",
        "quiet": True,
        "test_after_fit": False,
    }
    if case.retention:
        config["retention"] = {"class_path": "Digits", "init_args": {"classes": OLD}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    code = main(["fit", "--config", str(folder / "config.yaml"), "--runs_dir", str(root / "runs"), "--run_id", "one"])
    assert code == 0
    return root / "runs" / name / "one"
