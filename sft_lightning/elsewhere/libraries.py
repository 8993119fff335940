"""Loads an export folder by the library that it is for, and runs it."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.elsewhere.inputs import Arrays


def out(logits: Any) -> np.ndarray:
    """A tensor as single precision on the host."""
    found: np.ndarray = logits.detach().float().cpu().numpy()
    return found


NAMED = ("image", "text", "words", "masks", "audio")
"""Kinds of samples whose networks have one named output for each class or value"""


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
            "masks": hf.AutoModelForSemanticSegmentation,
            "audio": hf.AutoModelForAudioClassification,
            "ctc": hf.AutoModelForCTC,
            "speech": hf.AutoModelForSpeechSeq2Seq,
        }[kind]
        self.kind = kind
        self.model = auto.from_pretrained(folder).eval()
        self.processor: Any = None
        if kind in ("image", "masks"):
            self.processor = hf.AutoImageProcessor.from_pretrained(folder)
        elif kind in ("audio", "ctc", "speech"):
            self.processor = hf.AutoFeatureExtractor.from_pretrained(folder)
        self.tokenizer = None if kind in ("image", "masks", "audio") else hf.AutoTokenizer.from_pretrained(folder)
        names = self.model.config.id2label or {}
        self.labels = [names[i] for i in sorted(names, key=int)] if kind in NAMED else None
        self.version = f"transformers {hf.__version__}"
        self.takes = signature(self.model.forward).parameters

    def layer(self, name: str) -> Any:
        """The output layer."""
        return self.model.get_submodule(name)

    def pixels(self, image: Any) -> Arrays:
        """An image as the folder's processor prepares it."""
        if getattr(self.model.config, "num_channels", 3) == 3:
            image = image.convert("RGB")
        return {"image": self.processor(images=image, return_tensors="np")["pixel_values"]}

    def sound(self, sound: np.ndarray) -> Arrays:
        """A sound as the folder's feature extractor prepares it."""
        made = self.processor(sound, sampling_rate=self.processor.sampling_rate, return_tensors="np")
        return {**{name: made[name] for name in made}, "sound_lengths": np.array([len(sound)])}

    def hear(self, t: dict[str, Any]) -> np.ndarray:
        """Logits of sounds. Waveforms are fed one at a time, without padding, as a user does."""
        import torch

        name, lengths = self.model.main_input_name, t["sound_lengths"].tolist()
        if t[name].ndim > 2:
            masked = "attention_mask" in t and getattr(self.processor, "return_attention_mask", False)
            return out(self.model(**{n: t[n] for n in (name, *(["attention_mask"] if masked else []))}).logits)
        rows = [self.model(**{name: t[name][i : i + 1, :n]}).logits[0] for i, n in enumerate(lengths)]
        return out(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def run(self, x: Arrays) -> np.ndarray:
        """Logits of the model's own forward pass; start and end in one array for questions."""
        import torch

        t = {name: torch.from_numpy(value) for name, value in x.items()}
        if self.kind == "masks":
            return out(self.model(pixel_values=t["image"]).logits.permute(0, 2, 3, 1))
        if self.kind in ("audio", "ctc"):
            return self.hear(t)
        if self.kind == "speech":
            target = t["target_ids"]
            start = torch.full_like(target[:, :1], self.model.config.decoder_start_token_id)
            given = {"decoder_input_ids": torch.cat([start, target[:, :-1]], 1)}
            return out(self.model(input_features=t["input_features"], **given).logits)
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

        if self.kind == "speech":
            ids = self.model.generate(torch.from_numpy(prompt["input_features"]), max_new_tokens=limit)
            assert self.tokenizer is not None
            return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
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
        self.about_all: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.about: dict[str, Any] = json.loads(self.about_all["preprocessing"])
        self.labels: list[str] | None = json.loads(self.about_all["labels"])
        self.tokenizer: Any = None
        if kind not in ("image", "masks", "audio"):
            from transformers import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor: Any = None
        if "processor" in self.about:
            from transformers import AutoImageProcessor

            self.processor = AutoImageProcessor.from_pretrained(folder)
        elif (folder / "preprocessor_config.json").is_file():
            from transformers import AutoFeatureExtractor

            self.processor = AutoFeatureExtractor.from_pretrained(folder)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self.takes = [held.name for held in self.session.get_inputs()]

    def pixels(self, image: Any) -> Arrays:
        """An image as the metadata describe: mode, resize, crop, then (pixel/255 - mean)/std; or by the folder's processor."""
        from PIL import Image

        about = self.about
        image = image.convert(about["mode"])
        if self.processor is not None:
            return {"image": self.processor(images=image, return_tensors="np")["pixel_values"]}
        if about["resize"] is not None and list(image.size[::-1]) != about["crop"]:
            width, height = image.size
            size, crop = about["resize"], about["crop"]
            if size == "cover":
                scale = max(crop[0] / height, crop[1] / width)
                size = max(crop[0], round(height * scale)), max(crop[1], round(width * scale))
            elif isinstance(size, int):
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

    def sound(self, sound: np.ndarray) -> Arrays:
        """A sound as the folder's feature extractor prepares it, or as it is, for a graph that takes samples."""
        length = np.array([len(sound)])
        if self.processor is None:
            return {"sound": sound[None], "sound_lengths": length}
        made = self.processor(sound, sampling_rate=self.processor.sampling_rate, return_tensors="np")
        values = {n: made[n] if made[n].dtype.kind == "f" else made[n].astype(np.int64) for n in made}
        return {**values, "sound_lengths": length}

    def outputs(self, x: Arrays, name: str) -> np.ndarray:
        """One of the graph's outputs."""
        if self.about.get("one_length"):  # one at a time, without padding
            (given,) = self.takes
            rows = [x[given][i : i + 1, :n] for i, n in enumerate(x["sound_lengths"].tolist())]
            return np.concatenate([self.session.run([name], {given: row})[0] for row in rows])
        if self.about.get("in_graph"):  # the stored pixels again
            mean, std = (np.array(self.about[n], dtype=np.float32).reshape(-1, 1, 1) for n in ("mean", "std"))
            pixels = ((x["image"] * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
            x = {"image": pixels[:, ::-1] if self.about["channels"] == "BGR" else pixels}
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
