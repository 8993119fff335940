"""Answers from an export folder alone, in a fresh process and by the library that the folder is for.

`parity.py` runs this file as a script (`python -I elsewhere.py JOBS.json`). It imports nothing of this package, except to
load a `safetensors` folder. One process does all jobs of the file, because imports take longest.

A job has `library`, `folder`, `inputs` (a folder with batches as they were fed to the network, and samples as a user has
them), `kind` of the samples, and `limit` on generated tokens. Answers are written to `inputs`: `answers.npz` and
`answers.json`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Inputs:
    """What `probe.py` wrote.

    Args:
        folder: The folder of one job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw: list[dict[str, Any]] = json.loads((folder / "raw.json").read_text(encoding="utf-8"))
        with np.load(folder / "batches.npz") as held:
            self.arrays = {name: held[name] for name in held.files}

    def batches(self) -> Iterator[Arrays]:
        """Inputs of each batch by name, with `select` if the batch has it."""
        for number in range(int(self.arrays["number"])):
            start = f"{number}."
            yield {n.removeprefix(start): v for n, v in self.arrays.items() if n.startswith(start)}

    def image(self, sample: dict[str, Any]) -> Any:
        """A sample's image, as Pillow opens it."""
        from PIL import Image

        pixels = np.load(self.folder / sample["image"])
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


Run = Callable[[Arrays], np.ndarray]
"""Runs a network with one of its heads on one batch's inputs"""


def rows_of(run: Run, batch: Arrays) -> np.ndarray:
    """The outputs of a batch's items: those that `select` marks, in order."""
    select = batch.get("select")
    x = {name: value for name, value in batch.items() if name != "select"}
    mask = x.get("attention_mask")
    if mask is None or mask.ndim == 2:
        found = run(x)
        return found if select is None else found[select]
    there = mask.any(-1)  # [B, K, T]: rows of padding alone are never fed
    found = run({name: value[there] for name, value in x.items()})
    assert select is not None
    if select.ndim == 2:  # choices: one row of scores each
        return found[select[there]]
    whole = np.zeros((*mask.shape, found.shape[-1]), dtype=found.dtype)
    whole[there] = found
    return whole[select]


# ---- samples as a user has them ----


def prepared(kind: str, sample: dict[str, Any], tokenizer: Any) -> Arrays:
    """Inputs of one sample, by the folder's own tokenizer."""
    cut: dict[str, Any] = {"return_tensors": "np", "verbose": False}
    if tokenizer.model_max_length < 10**9:
        cut |= {"truncation": True, "max_length": tokenizer.model_max_length}
    if kind == "text":
        return of(tokenizer([sample["text"]], *([[sample["pair"]]] if "pair" in sample else []), **cut))
    if kind == "words":
        made = tokenizer([sample["words"]], is_split_into_words=True, **cut)
        words = made.word_ids(0)
        first = [w is not None and (not at or words[at - 1] != w) and w not in words[:at] for at, w in enumerate(words)]
        return {**of(made), "select": np.array([first])}
    if kind == "choices":
        made = of(tokenizer(sample["first"], sample["second"], padding=True, **cut))
        each = {name: value[None] for name, value in made.items()}
        return {**each, "select": np.ones((1, len(sample["first"])), dtype=bool)}
    cut["return_offsets_mapping"] = True
    if "truncation" in cut:
        length = tokenizer.model_max_length
        stride = length // 3 if sample.get("stride") is None else sample["stride"]
        cut |= {"truncation": "only_second", "stride": stride, "return_overflowing_tokens": True}
    made = tokenizer([sample["question"]], [sample["context"]], padding=True, **cut)
    marks = []
    for window, places in enumerate(made["offset_mapping"].tolist()):
        parts = made.sequence_ids(window)
        may = [p == 1 and bool(sample["context"][a:b].strip()) for p, (a, b) in zip(parts, places, strict=True)]
        marks.append([True, *may[1:]])
    each = {name: value[None] for name, value in of(made).items()}
    return {**each, "select": np.array([marks])}


def of(made: Any) -> Arrays:
    """The network's inputs among a tokenizer's."""
    return {n: made[n] for n in ("input_ids", "attention_mask", "token_type_ids") if n in made}


# ---- libraries ----


class TransformersFolder:
    """A folder that transformers loads, with its Auto classes.

    Args:
        folder: The export.
        kind: Of the samples.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        import transformers as hf

        auto = {
            "image": hf.AutoModelForImageClassification,
            "text": hf.AutoModelForSequenceClassification,
            "words": hf.AutoModelForTokenClassification,
            "choices": hf.AutoModelForMultipleChoice,
            "questions": hf.AutoModelForQuestionAnswering,
            "tokens": hf.AutoModelForCausalLM,
            "pairs": hf.AutoModelForSeq2SeqLM,
        }[kind]
        self.kind = kind
        self.model = auto.from_pretrained(folder).eval()
        self.processor = hf.AutoImageProcessor.from_pretrained(folder) if kind == "image" else None
        self.tokenizer = None if kind == "image" else hf.AutoTokenizer.from_pretrained(folder)
        names = self.model.config.id2label or {}
        self.labels = [names[i] for i in sorted(names, key=int)] if kind in ("image", "text", "words") else None
        self.version = f"transformers {hf.__version__}"
        self.takes = signature(self.model.forward).parameters

    def layer(self, name: str) -> Any:
        """The output layer."""
        return self.model.get_submodule(name)

    def pixels(self, image: Any) -> Arrays:
        """An image as the folder's processor prepares it."""
        if getattr(self.model.config, "num_channels", 3) == 3:
            image = image.convert("RGB")
        assert self.processor is not None
        return {"image": self.processor(images=image, return_tensors="np")["pixel_values"]}

    def run(self, x: Arrays) -> np.ndarray:
        """Logits of the model's own forward pass; start and end in one array for questions."""
        import torch

        t = {name: torch.from_numpy(value) for name, value in x.items()}
        if self.kind == "image":
            size, image = getattr(self.model.config, "image_size", None), t["image"]
            built = size if isinstance(size, (list, tuple)) else (size, size)
            more = "interpolate_pos_encoding" in self.takes
            resized = more and size is not None and tuple(image.shape[-2:]) != tuple(built)
            options = {"interpolate_pos_encoding": True} if resized else {}
            return out(self.model(pixel_values=image, **options).logits)
        if self.kind == "pairs":
            target = t.pop("target_ids")
            if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
                t["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=target)
            else:
                start = torch.full_like(target[:, :1], self.model.config.decoder_start_token_id)
                t["decoder_input_ids"] = torch.cat([start, target[:, :-1]], 1)
        if self.kind == "choices":
            t = {name: value[:, None] for name, value in t.items()}
        if "position_ids" in self.takes and t["attention_mask"][:, 0].eq(0).any():  # padded on the left
            t["position_ids"] = (t["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        made = self.model(**{n: v for n, v in t.items() if n != "token_type_ids" or n in self.takes})
        if self.kind == "questions":
            return out(torch.stack([made.start_logits, made.end_logits], -1))
        return out(made.logits)

    def texts(self, prompt: Arrays, limit: int) -> list[str]:
        """Texts that the folder's own generation settings give, at most `limit` tokens long."""
        import torch

        t = {name: torch.from_numpy(value) for name, value in prompt.items() if name != "token_type_ids"}
        made = self.model.generate(**t, max_new_tokens=limit)
        assert self.tokenizer is not None
        after = 0 if self.kind == "pairs" else prompt["input_ids"].shape[1]
        return list(self.tokenizer.batch_decode(made[:, after:], skip_special_tokens=True))


class TimmFolder:
    """A folder that `timm.create_model` loads.

    Args:
        folder: The export.
        kind: 'image'.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        import timm

        self.model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        config = timm.data.resolve_model_data_config(self.model)
        self.transform: Any = timm.data.create_transform(**config, is_training=False)
        self.labels: list[str] | None = self.model.pretrained_cfg.get("label_names")
        self.version = f"timm {timm.__version__}"

    def layer(self, name: str) -> Any:
        """The output layer."""
        return self.model.get_submodule(name)

    def pixels(self, image: Any) -> Arrays:
        """An image as timm's own evaluation transform prepares it."""
        return {"image": self.transform(image.convert("RGB"))[None].numpy()}

    def run(self, x: Arrays) -> np.ndarray:
        """Logits."""
        import torch

        return out(self.model(torch.from_numpy(x["image"])))


class OnnxFolder:
    """A folder with `model.onnx`, which onnxruntime loads.

    Args:
        folder: The export.
        kind: Of the samples.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.about: dict[str, Any] = json.loads(about["preprocessing"])
        self.labels: list[str] | None = json.loads(about["labels"])
        self.tokenizer: Any = None
        if kind != "image":
            from transformers import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self.takes = [held.name for held in self.session.get_inputs()]

    def pixels(self, image: Any) -> Arrays:
        """An image as the metadata describe: mode, resize, crop, then (pixel/255 - mean)/std."""
        from PIL import Image

        about = self.about
        image = image.convert(about["mode"])
        if about["resize"] is not None and list(image.size[::-1]) != about["crop"]:
            width, height = image.size
            size = about["resize"]
            if isinstance(size, int):
                long = int(size * max(width, height) / min(width, height))
                size = (size, long) if height <= width else (long, size)
            image = image.resize((size[1], size[0]), getattr(Image.Resampling, about["resample"].upper()))
            width, height = image.size
            left, top = round((width - about["crop"][1]) / 2), round((height - about["crop"][0]) / 2)
            image = image.crop((left, top, left + about["crop"][1], top + about["crop"][0]))
        pixels = np.asarray(image, dtype=np.float32)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        pixels = pixels[::-1] if about["channels"] == "BGR" else pixels
        mean, std = (np.array(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
        return {"image": ((pixels / 255 - mean) / std)[None].astype(np.float32)}

    def outputs(self, x: Arrays, name: str) -> np.ndarray:
        """One of the graph's outputs."""
        found: np.ndarray = self.session.run([name], {n: v for n, v in x.items() if n in self.takes})[0]
        return found

    def run(self, x: Arrays) -> np.ndarray:
        """Logits of the new head."""
        return self.outputs(x, "logits")

    def source(self, x: Arrays) -> np.ndarray:
        """Logits of the source head."""
        return self.outputs(x, "source_logits")


class OwnFolder:
    """A folder that this package loads.

    Args:
        folder: The export.
        kind: Of the samples.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        from sft_lightning import __version__
        from sft_lightning.export.own_folder import load_export

        self.network = load_export(folder).eval()
        self.labels: list[str] | None = self.network.task.labels
        self.version = f"sft_lightning {__version__}"

    def rows(self, batch: Arrays, source: bool) -> np.ndarray:
        """Outputs of a batch's items."""
        import torch

        t = {name: torch.from_numpy(value) for name, value in batch.items()}
        found = self.network(t, t.pop("select", None))
        return out(found.source_logits if source else found.logits)

    def texts(self, prompt: Arrays, limit: int) -> list[str]:
        """Generated texts, at most `limit` tokens long."""
        import torch

        network: Any = self.network
        network.generation.max_new_tokens = limit
        return self.network.generate({name: torch.from_numpy(value) for name, value in prompt.items()})


LIBRARIES = {"transformers": TransformersFolder, "timm": TimmFolder, "onnx": OnnxFolder, "safetensors": OwnFolder}


def out(logits: Any) -> np.ndarray:
    """A tensor as single precision on the host."""
    found: np.ndarray = logits.detach().float().cpu().numpy()
    return found


def swap_source(held: Any, folder: Path) -> None:
    """Puts the kept source head in the output layer's place, as the folder's README says."""
    from safetensors.torch import load_file
    from torch import nn

    about = json.loads((folder / "source_head.json").read_text(encoding="utf-8"))
    layer, kept = held.layer(about["layer"]), load_file(folder / "source_head.safetensors")
    layer.weight = nn.Parameter(
        kept["weight"].clone()
    )  # aligned in memory, as the run's own is: the last bits depend on it
    layer.bias = nn.Parameter(kept["bias"].clone()) if "bias" in kept else None


def answer(job: dict[str, Any]) -> None:
    """Does one job."""
    folder, inputs, kind = Path(job["folder"]), Inputs(Path(job["inputs"])), job["kind"]
    held: Any = LIBRARIES[job["library"]](folder, kind)
    found: Arrays = {}
    said: dict[str, Any] = {"labels": held.labels, "version": held.version}
    prompt = {n.removeprefix("prompt."): v for n, v in inputs.arrays.items() if n.startswith("prompt.")}
    if prompt and hasattr(held, "texts"):
        said["texts"] = held.texts(prompt, job["limit"])
    if kind in ("tokens", "pairs") and isinstance(held, TransformersFolder) and all("text" in s for s in inputs.raw):
        assert held.tokenizer is not None
        said["ids"] = held.tokenizer([s["text"] for s in inputs.raw])["input_ids"]
    for head in job["heads"]:
        if isinstance(held, OwnFolder):
            found[f"{head}.prepared"] = np.concatenate([held.rows(b, head == "source") for b in inputs.batches()])
            continue
        run = held.run
        if head == "source" and isinstance(held, OnnxFolder):
            run = held.source
        elif head == "source":
            swap_source(held, folder)
        found[f"{head}.prepared"] = np.concatenate([rows_of(run, b) for b in inputs.batches()])
        if not inputs.raw or kind in ("tokens", "pairs"):
            continue
        if kind == "image":
            samples = [held.pixels(inputs.image(sample)) for sample in inputs.raw]
            found["pixels"] = np.concatenate([s["image"] for s in samples])
        else:
            samples = [prepared(kind, sample, held.tokenizer) for sample in inputs.raw if sample]
        found[f"{head}.raw"] = np.concatenate([rows_of(run, sample) for sample in samples])
    np.savez(inputs.folder / "answers.npz", **found)  # type: ignore[arg-type]
    (inputs.folder / "answers.json").write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")


def main(path: str) -> None:
    """Does all jobs of a file, one after the other. A job that fails leaves its error in `answers.json`."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    sys.path[:0] = content["paths"]
    with torch.no_grad():
        for job in content["jobs"]:
            try:
                answer(job)
            except Exception as error:  # whatever the library raises: the folder cannot be used there
                why = f"{type(error).__name__}: {error}"
                Path(job["inputs"], "answers.json").write_text(json.dumps({"error": why}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
