"""How to load an ONNX export with onnxruntime and predict, as Python that READMEs show."""

from sft_lightning.export.snippets import READ

IMAGE = """import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
mean, std = (np.array(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))


"""
IMAGE += READ
IMAGE += """def predict(image):
    image, size = read(image, about["mode"]), about["resize"]
    height, width = about["crop"] or image.size[::-1]
    if size is not None and image.size != (width, height):
        if size == "cover":  # the least size that covers the crop
            scale = max(height / image.height, width / image.width)
            size = max(height, round(image.height * scale)), max(width, round(image.width * scale))
        elif isinstance(size, int):  # the shorter side
            long = int(size * max(image.size) / min(image.size))
            size = (size, long) if image.height <= image.width else (long, size)
        image = image.resize((size[1], size[0]), getattr(Image.Resampling, about["resample"].upper()))
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    pixels = pixels[::-1] if about["channels"] == "BGR" else pixels
    inputs = {"image": ((pixels / 255 - mean) / std)[None].astype(np.float32)}
    return session.run(["logits"], inputs)[0][0].tolist()
"""
IN_GRAPH = (
    """    pixels = pixels[::-1] if about["channels"] == "BGR" else pixels
    inputs = {"image": ((pixels / 255 - mean) / std)[None].astype(np.float32)}
""",
    """    inputs = {"image": pixels[None].astype(np.uint8)}  # the graph scales them, and turns channels round if it has to
""",
)
"""What of IMAGE is otherwise if the graph takes pixels"""
PROCESSOR = """import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

session, processor = onnxruntime.InferenceSession("model.onnx"), AutoImageProcessor.from_pretrained(".")
about = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
mean, std = (np.array(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))


"""
PROCESSOR += READ
PROCESSOR += """def predict(image):
    image = processor(images=read(image, about["mode"]), return_tensors="np")["pixel_values"]
    inputs = {"image": image.astype(np.float32)}
    return session.run(["logits"], inputs)[0][0].tolist()
"""
"""The same with an image processor of transformers"""
PROCESSED_IN_GRAPH = (
    """    inputs = {"image": image.astype(np.float32)}
""",
    """    pixels = ((image * std + mean) * 255).round().astype(np.uint8)  # the graph scales them again
    inputs = {"image": pixels[:, ::-1] if about["channels"] == "BGR" else pixels}
""",
)
"""What of PROCESSOR is otherwise if the graph takes pixels"""
LOAD = """import onnxruntime
from transformers import AutoTokenizer

session, tokenizer = onnxruntime.InferenceSession("model.onnx"), AutoTokenizer.from_pretrained(".")


"""
RUN = """    inputs = {{name: made[name] for name in ({names},)}}
    logits = session.run(["logits"], inputs)[0]
"""
SOUND = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")


def predict(sound):  # float32 [T], one channel, of the metadata's sample rate
    inputs = {"sound": sound[None].astype(np.float32), "sound_lengths": np.array([len(sound)])}
    return session.run(["logits"], inputs)[0][0].tolist()
"""
"""For sounds whose features the graph itself computes"""
SNIPPETS = {
    "audio": """import numpy as np
import onnxruntime
from transformers import AutoFeatureExtractor

session, extractor = onnxruntime.InferenceSession("model.onnx"), AutoFeatureExtractor.from_pretrained(".")


def predict(sound):  # float32 [T], one channel, of extractor.sampling_rate
    made = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="np")
    types = {held.name: np.int64 if "int" in held.type else np.float32 for held in session.get_inputs()}
    inputs = {name: made[name].astype(kind) for name, kind in types.items()}
    return session.run(["logits"], inputs)[0][0].tolist()
""",
    "image": IMAGE,
    "masks": IMAGE.replace("(image):", "(image):  # [h, w, C]; enlarge it to the image's size, bilinear"),
    "text": LOAD
    + """def predict(text, pair=None):
    made = tokenizer([text], *([[pair]] if pair else []), truncation=True, return_tensors="np")
"""
    + RUN
    + """    return logits[0].tolist()
""",
    "words": LOAD
    + """def predict(words):
    made = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="np")
"""
    + RUN
    + """    of = made.word_ids()
    first = [at for at, word in enumerate(of) if word is not None and word not in of[:at]]
    return logits[0][first].tolist()  # the first piece of each word has the word's tag
""",
    "choices": LOAD
    + """def predict(question, choices):  # one score each; softmax over a question's choices
    made = tokenizer([question] * len(choices), choices, truncation=True, padding=True, return_tensors="np")
"""
    + RUN
    + """    return logits[:, 0].tolist()
""",
    "questions": LOAD
    + """def predict(question, context):  # of the first window; longer contexts need several
    made = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="np")
"""
    + RUN
    + """    scores, places = logits[0], made["offset_mapping"][0].tolist()
    may = [at for at, part in enumerate(made.sequence_ids(0)) if part == 1]
    spans = [(a, b) for a in may for b in may if a <= b < a + 30]
    a, b = max(spans, key=lambda s: float(scores[s[0], 0] + scores[s[1], 1]))
{none}    return context[places[a][0] : places[b][1]].strip()
""",
}
"""How to load the folder and predict, by kind of input"""
