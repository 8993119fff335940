"""Tiny configurations of transformers' models of sounds."""

from typing import Any


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
