"""Tiny configurations of transformers' models of sounds."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.networks.tiny import bart_pieces


def tiny_wav2vec2(**settings: Any) -> dict[str, Any]:
    """Three convolutions, one frame for each 80 samples, and two layers of 16 units; a norm over time unless told otherwise."""
    return {
        "model_type": "wav2vec2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": [8, 8, 8],
        "conv_kernel": [10, 4, 4],
        "conv_stride": [5, 4, 4],
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 12,
        **settings,
    }


MASKED = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
"""Settings of a wav2vec2 whose answers do not depend on padding, as in the large models"""


def tiny_ast(**settings: Any) -> dict[str, Any]:
    """A spectrogram transformer of 0.64 s."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return {"model_type": "audio-spectrogram-transformer", **sizes, "max_length": 64, "num_mel_bins": 32, **settings}


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"]
"""Tokens of `tiny_ctc`, of which the first is the blank"""


def tiny_ctc(folder: Path, **settings: Any) -> str:
    """A folder with a random wav2vec2 that writes lower-case letters, its tokenizer and its feature extractor."""
    from transformers import Wav2Vec2Config as Config
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    values = tiny_wav2vec2(**{"vocab_size": len(LETTERS), "pad_token_id": 0, "initializer_range": 0.1, **settings})
    torch.manual_seed(0)
    values.pop("model_type")
    Wav2Vec2ForCTC(Config(**values)).save_pretrained(folder)
    masked = values.get("feat_extract_norm") == "layer"
    Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=masked).save_pretrained(folder)
    return str(folder)


def tiny_whisper(folder: Path) -> str:
    """A folder with a random Whisper that hears one second at 8 kHz, its tokenizer and its feature extractor."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    tokenizer = bart_pieces()
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=32,
        vocab_size=len(tokenizer),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.5,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(
        feature_size=8, sampling_rate=8000, hop_length=80, n_fft=200, chunk_length=1
    ).save_pretrained(folder)
    return str(folder)
