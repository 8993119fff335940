"""Networks of sounds: padding changes no answer, the spectrogram is the library's, and extractors are followed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.audio.sounds import padded
from sft_lightning.networks.base import Network
from sft_lightning.networks.mel_cnn import FLOOR, LogMel, MelCNN
from sft_lightning.networks.transformers_audio import TransformersAudio
from tests.networks.tiny_audio import MASKED, tiny_ast, tiny_wav2vec2
from tests.refused import refused

TASK = TaskInfo("classification", 3, ["a", "b", "c"])


def some_sounds() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, samples).astype(np.float32) for samples in (9000, 4000, 6001, 1, 640)]


def mel_cnn() -> Network:
    return MelCNN(TASK, sample_rate=8000, mels=12, channels=[4, 6, 6], hidden=8)


def of_transformers(config: dict[str, Any]) -> Network:
    return TransformersAudio(TASK, config=config)


NETWORKS = {
    "MelCNN": mel_cnn,
    "wav2vec2 with a norm over time": lambda: of_transformers(tiny_wav2vec2()),
    "wav2vec2 with a mask": lambda: of_transformers(tiny_wav2vec2(**MASKED)),
    "AST": lambda: of_transformers(tiny_ast()),
    "SEW, which makes one of two frames": lambda: of_transformers(
        {**tiny_wav2vec2(), "model_type": "sew", "squeeze_factor": 2}
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_sound_beside_longer_ones_gets_the_answer_that_it_gets_alone(name: str) -> None:
    torch.manual_seed(0)
    network, sounds = NETWORKS[name]().eval(), some_sounds()
    make = network.input_spec.extract or padded
    together = network(make(sounds)).logits
    apart = torch.cat([network(make([sound])).logits for sound in sounds])
    assert together.isfinite().all()
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_the_spectrogram_is_that_of_transformers(rate: int) -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    sound, mel = some_sounds()[2], LogMel(rate, 40)
    bank = mel_filter_bank(mel.fft // 2 + 1, 40, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    theirs = spectrogram(
        sound,
        window_function(mel.length, "hann"),
        mel.length,
        mel.hop,
        mel.fft,
        power=2.0,
        pad_mode="constant",
        mel_filters=bank,
        mel_floor=FLOOR,
        log_mel="log",
    )
    np.testing.assert_allclose(mel(torch.from_numpy(sound)[None])[0].numpy(), theirs, atol=2e-4)


@torch.no_grad()
def test_loudness_changes_nothing_and_silence_is_finite() -> None:
    torch.manual_seed(0)
    network, sound = mel_cnn().eval(), some_sounds()[0]
    loud, soft = network(padded([10 * sound])).logits, network(padded([sound])).logits
    torch.testing.assert_close(loud, soft, rtol=1e-3, atol=1e-5)
    assert network(padded([np.zeros(500, dtype=np.float32)])).logits.isfinite().all()


def test_a_pretrained_network_keeps_its_rate_and_another_is_refused(tmp_path: Path) -> None:
    network = mel_cnn()
    network.settle(type(network.input_view)(sample_rate=8000))
    network.save_pretrained(str(tmp_path))
    sizes: dict[str, Any] = {"mels": 12, "channels": [4, 6, 6], "hidden": 8, "pretrained": str(tmp_path)}
    again = MelCNN(TASK, **sizes)
    assert again.sample_rate == 8000 and again.source_labels == ["a", "b", "c"]
    with refused("network.sample_rate", "8000"):
        MelCNN(TASK, **sizes, sample_rate=16000)


def test_the_feature_extractor_of_the_weights_is_followed_and_exported(tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

    network = of_transformers(tiny_wav2vec2(**MASKED)).eval()
    network.save_pretrained(str(tmp_path / "first"))
    Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False, return_attention_mask=True).save_pretrained(
        tmp_path / "first"
    )
    again = TransformersAudio(TASK, pretrained=str(tmp_path / "first")).eval()
    assert again.input_spec.sample_rate == 8000
    sound = some_sounds()[1]
    made = again.extractor([sound])
    np.testing.assert_array_equal(made["input_values"][0].numpy(), sound)  # not normalised
    again.save_pretrained(str(tmp_path / "second"))
    theirs = AutoModelForAudioClassification.from_pretrained(tmp_path / "second").eval()
    own = AutoFeatureExtractor.from_pretrained(tmp_path / "second")
    with torch.no_grad():
        said = theirs(**own(sound, sampling_rate=8000, return_tensors="pt")).logits
        torch.testing.assert_close(said, again(made).logits)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
