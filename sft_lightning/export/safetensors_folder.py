"""Exports plain safetensors with our own config, for any network."""

import shutil
from pathlib import Path

from sft_lightning.export.folder_files import ADAPTER, add_adapter
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.own_folder import own_module
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.source_head_file import ABOUT, WEIGHTS


class SafetensorsFolder(Format):
    """model.safetensors and config.json as in a run's `model/`; `sft_lightning.export.load_export` loads both heads."""

    name = "safetensors"

    def why_not(self, network: Network) -> str:
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        tuned.network.save_pretrained(str(folder))
        if SOURCE not in heads:
            for name in (ABOUT, WEIGHTS):
                (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        if adapters:
            add_adapter(tuned, folder)

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        kind = tuned.network.input_spec.kind
        snippet = SNIPPET + IMAGES if kind == "image" else SNIPPET + TEXTS if kind == "text" else ANSWER + ASKED[kind]
        module = own_module(tuned.network)
        said = [f"```python\n{snippet}```\n"]
        if module:
            said.insert(0, f"The network's class is in the module `{module[0]}`, which must be importable.\n")
        if kind in ("image", "text"):
            said.append(
                "`network(inputs)` takes what `network.input_spec` describes; its `logits` are the new head's.\n"
            )
        elif SOURCE in heads:
            said.append('`model.answer(…)[0]["source"]` is what the source head says.\n')
        if SOURCE in heads:
            source = "`output.source_logits` are those of the source head, whose labels are `network.source_labels`.\n"
            said += [source] if kind in ("image", "text") else []
        if not module:
            both = " --head both" if SOURCE in heads else ""
            said.append(f"For files of samples: `sft-lightning predict . --input FILE{both}`.\n")
        return "\n".join(said)


SNIPPET = """import torch
from sft_lightning.export import load_export

network = load_export(".")
"""
TEXTS = """

def predict(text, pair=None):
    made = network.tokenizer([text], *([[pair]] if pair else []), truncation=True, max_length=network.max_length)
    ids = torch.tensor(made["input_ids"])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in made:
        inputs["token_type_ids"] = torch.tensor(made["token_type_ids"])
    output = network(inputs)
    return output.logits[0].tolist()
"""
IMAGES = """

def predict(pixels):  # uint8 [C, H, W] of the network's size
    seen = network.input_view
    mean, std = (torch.tensor(values)[:, None, None] for values in (seen.mean or [0.0], seen.std or [1.0]))
    image = (pixels.flip(0) if seen.reverse_channels else pixels) / 255
    output = network({"image": ((image - mean) / std)[None]})
    return output.logits[0].tolist()
"""
ANSWER = """from sft_lightning.serve.answering import Model
from sft_lightning.serve.items import Item

model = Model.load(".")


def answer(**sample):
    found = model.answer([Item("sample", **sample)])[0]
    if isinstance(found, Exception):
        raise found
    return found["new"]


"""
ASKED = {
    "words": """def predict(words):  # the tags of words, or of a text
    return answer(text=words) if isinstance(words, str) else answer(words=tuple(words))
""",
    "questions": """def predict(question, context):  # the answer, its place in the context, and its probability
    return answer(row={"question": question, "context": context})
""",
    "choices": """def predict(question, choices, **context):  # the place of the best choice; context="…" if there is one
    return answer(row={**context, "question": question, "choices": choices})
""",
    "pairs": """def predict(text):  # the text that the network writes
    return answer(text=text)["text"]
""",
    "tokens": """def predict(text):  # how the network goes on
    return answer(text=text)["text"]
""",
    "masks": """def predict(file):  # a mask of class numbers, of the image's own size
    from base64 import b64decode
    from io import BytesIO

    import numpy as np
    from PIL import Image

    return np.array(Image.open(BytesIO(b64decode(answer(image=open(file, "rb").read())["mask"]))))
""",
    "boxes": """def predict(file):  # boxes in pixels of the image, their labels and scores
    return answer(image=open(file, "rb").read())
""",
    "audio": """def predict(file):  # a sound file of any rate
    return answer(sound=open(file, "rb").read())
""",
    "speech": """def predict(file):  # what is said in a sound file
    return answer(sound=open(file, "rb").read())["text"]
""",
}
"""How to predict with our own reader of samples, by kind of input"""
