"""Exports folders of transformers: model, tokenizer or processor, chat template, generation settings."""

import shutil
from pathlib import Path
from typing import Any

from sft_lightning.elsewhere.libraries import NAMED
from sft_lightning.export.folder_files import ADAPTER, add_adapter, limit_length, name_layer
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.probe import kind_of
from sft_lightning.export.snippets import NONE, READ, source_head_in
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.source_head_file import ABOUT, WEIGHTS
from sft_lightning.networks.transformers_lm import stop_at
from sft_lightning.tasks.answer_scores import may_be_none

AUTO = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
    "words": "AutoModelForTokenClassification",
    "choices": "AutoModelForMultipleChoice",
    "questions": "AutoModelForQuestionAnswering",
    "tokens": "AutoModelForCausalLM",
    "pairs": "AutoModelForSeq2SeqLM",
    "masks": "AutoModelForSemanticSegmentation",
    "audio": "AutoModelForAudioClassification",
    "ctc": "AutoModelForCTC",
    "speech": "AutoModelForSpeechSeq2Seq",
}


class TransformersFolder(Format):
    """A genuine transformers folder, for its Auto classes and pipelines."""

    name = "transformers"

    def why_not(self, network: Network) -> str:
        if network.library != "transformers":
            return f"{network.name} is not a network of transformers"
        if (kind := kind_of(network)) not in AUTO:
            return f"inputs of kind {kind} are not supported yet"
        if network.input_view.window is not None:
            return "the run sees larger images in windows, which transformers does not do; use safetensors"
        if not network.shares_outputs and getattr(network, "head_name", None) is None:
            pooling = getattr(network, "pooling", "its own")
            return f"transformers has no class for a head on {pooling} pooling"
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        network: Any = tuned.network
        network.save_pretrained(str(folder))
        if kind_of(network) == "tokens":
            settings = network.generation.settings(network.tokenizer)
            stop_at(settings, list(network.input_view.ends or ()), network.tokenizer)
            settings.save_pretrained(folder)
        limit_length(folder, network.input_view.max_length)
        if SOURCE in heads:
            name_layer(folder, network.head_name)
        else:
            for name in (ABOUT, WEIGHTS):
                (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        if adapters:
            add_adapter(tuned, folder)

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        kind = kind_of(tuned.network)
        none = NONE if kind == "questions" and may_be_none(tuned.network.task) else ""
        said = f"```python\n{SNIPPETS[kind].format(auto=AUTO[kind], none=none)}```\n"
        if SOURCE in heads:
            said += source_head_in("config.id2label" if kind in NAMED else "")
        return said


LOAD = """import torch
from transformers import {auto}, AutoTokenizer

model, tokenizer = {auto}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
"""
SEE = """import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, {auto}

model, processor = {auto}.from_pretrained("."), AutoImageProcessor.from_pretrained(".")


"""
SNIPPETS = {
    "image": SEE
    + READ
    + """def predict(image):
    mode = "L" if getattr(model.config, "num_channels", 3) == 1 else "RGB"
    inputs = processor(images=read(image, mode), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits.tolist()
""",
    "text": LOAD
    + """

def predict(text, pair=None):
    inputs = tokenizer(text, pair, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits.tolist()
""",
    "words": LOAD
    + """

def predict(words):
    inputs = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    of = inputs.word_ids()
    first = [at for at, word in enumerate(of) if word is not None and word not in of[:at]]
    return logits[first].tolist()  # the first piece of each word has the word's tag
""",
    "choices": LOAD
    + """

def predict(question, choices):
    inputs = tokenizer([question] * len(choices), choices, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**{{name: value[None] for name, value in inputs.items()}}).logits[0]
    return logits.tolist()
""",
    "questions": LOAD
    + """

def predict(question, context):  # of the first window; longer contexts need several
    inputs = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="pt")
    places = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**inputs)
    may = [at for at, part in enumerate(inputs.sequence_ids(0)) if part == 1]
    scores = torch.stack([output.start_logits[0], output.end_logits[0]], -1)
    spans = [(a, b) for a in may for b in may if a <= b < a + 30]
    a, b = max(spans, key=lambda s: float(scores[s[0], 0] + scores[s[1], 1]))
{none}    return context[places[a][0] : places[b][1]].strip()
""",
    "tokens": LOAD
    + """

def predict(prompt):  # a text, or messages such as [{{"role": "user", "content": "…"}}]
    if isinstance(prompt, list):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    made = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(made, skip_special_tokens=True)
""",
    "pairs": LOAD
    + """

def predict(text):
    made = model.generate(**tokenizer(text, truncation=True, return_tensors="pt"))[0]
    return tokenizer.decode(made, skip_special_tokens=True)
""",
    "masks": SEE
    + READ
    + """def predict(image):  # [C, h, w]; enlarge it to the image's size, bilinear, and take each pixel's largest output
    inputs = processor(images=read(image, "RGB"), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits.tolist()
""",
    "audio": """import torch
from transformers import AutoFeatureExtractor, {auto}

model, extractor = {auto}.from_pretrained("."), AutoFeatureExtractor.from_pretrained(".")


def predict(sound):  # float32 [T], one channel, of extractor.sampling_rate
    inputs = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits.tolist()
""",
    "ctc": """import torch
from transformers import AutoFeatureExtractor, {auto}, AutoTokenizer

model, extractor = {auto}.from_pretrained("."), AutoFeatureExtractor.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")


def predict(sound):  # float32 [T], one channel, of extractor.sampling_rate
    inputs = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return tokenizer.decode(logits.argmax(-1))
""",
    "speech": """import torch
from transformers import AutoFeatureExtractor, {auto}, AutoTokenizer

model, extractor = {auto}.from_pretrained("."), AutoFeatureExtractor.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")


def predict(sound):  # float32 [T], one channel, of extractor.sampling_rate
    inputs = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    made = model.generate(inputs["input_features"])[0]
    return tokenizer.decode(made, skip_special_tokens=True).strip()
""",
}
"""How to load the folder and predict, by kind of input"""
