"""What holds for every network: a new one is tried by being registered, and needs one line in EXAMPLES."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import LSTM, NETWORKS, Network
from tests.networks.tiny import SENTENCES, tiny_folder
from tests.networks.tiny_audio import tiny_ctc, tiny_wav2vec2, tiny_whisper
from tests.networks.vision import tiny_detr

OWN = {name: cls for name, cls in NETWORKS.items() if cls.__module__.startswith("sft_lightning.")}
Inputs = dict[str, Tensor]


def images(channels: int, side: int) -> Inputs:
    return {"image": torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))}


def tokens() -> Inputs:
    ids = torch.randint(5, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def choices() -> Inputs:
    """Three questions with up to three choices, of which the last question lacks one."""
    there = torch.ones(3, 3, dtype=torch.bool)
    there[2, 2] = False
    ids = torch.randint(5, 60, (3, 3, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * there[..., None], "attention_mask": there[..., None].expand_as(ids).long()}


def pairs() -> Inputs:
    ids = torch.randint(5, 60, (4, 5), generator=torch.Generator().manual_seed(1))
    return {**tokens(), "target_ids": ids}


def of_transformers(kind: str, head: str) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"pretrained": tiny_folder(folder / kind, kind, head)}


def sounds() -> Inputs:
    """Four sounds of different lengths, in samples."""
    lengths = torch.tensor([3000, 1500, 2200, 3000])
    sound = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)) * 0.1
    return {"sound": sound * (torch.arange(3000) < lengths[:, None]), "sound_lengths": lengths}


def waveforms() -> Inputs:
    """The same, as wav2vec2's feature extractor gives them."""
    x = sounds()
    mask = torch.arange(3000) < x["sound_lengths"][:, None]
    return {"input_values": x["sound"], "attention_mask": mask.long(), "sound_lengths": x["sound_lengths"]}


def transcribed() -> Inputs:
    """Spectrograms of a second, with target tokens."""
    ids = torch.randint(5, 60, (4, 5), generator=torch.Generator().manual_seed(1))
    return {"input_features": torch.randn(4, 8, 100, generator=torch.Generator().manual_seed(0)), "target_ids": ids}


def wav2vec2(folder: Path) -> dict[str, Any]:
    return {"config": tiny_wav2vec2()}


def vit(folder: Path) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return {"config": {"model_type": "vit", **sizes, "image_size": 32, "patch_size": 8}}


def segformer(folder: Path) -> dict[str, Any]:
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    return {"config": {"model_type": "segformer", **sizes}}


EXAMPLES: dict[str, tuple[Callable[[Path], dict[str, Any]], Callable[[], Inputs]]] = {
    "MLP": (lambda folder: {"in_features": 64, "hidden": [8, 8]}, lambda: images(1, 8)),
    "LeNet": (lambda folder: {"image_size": 16}, lambda: images(3, 16)),
    "LSTM": (lambda folder: {"embedding_dim": 8, "hidden": 8, "vocabulary_size": 60}, tokens),
    "UNet": (lambda folder: {"channels": 3, "widths": [4, 6]}, lambda: images(3, 9)),
    "Timm": (lambda folder: {"name": "test_resnet"}, lambda: images(3, 32)),
    "TimmSegmentation": (lambda folder: {"name": "test_resnet", "width": 8}, lambda: images(3, 32)),
    "TimmDetection": (
        lambda folder: {"name": "test_resnet", "width": 64, "convolutions": 1},
        lambda: images(3, 64),
    ),
    "TorchvisionDetection": (lambda folder: {"name": "ssdlite320_mobilenet_v3_large"}, lambda: images(3, 64)),
    "FasterRCNN": (
        lambda folder: {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8},
        lambda: images(3, 64),
    ),
    "TransformersDetection": (lambda folder: {"config": tiny_detr()}, lambda: images(3, 64)),
    "Torchvision": (lambda folder: {"name": "resnet18"}, lambda: images(3, 32)),
    "TorchvisionSegmentation": (lambda folder: {"name": "lraspp_mobilenet_v3_large"}, lambda: images(3, 40)),
    "TransformersSegmentation": (segformer, lambda: images(3, 32)),
    "TransformersImage": (vit, lambda: images(3, 32)),
    "MelCNN": (lambda folder: {"sample_rate": 8000, "mels": 8, "channels": [4, 6], "hidden": 8}, sounds),
    "TransformersAudio": (wav2vec2, waveforms),
    "TransformersCTC": (lambda folder: {"pretrained": tiny_ctc(folder / "ctc")}, waveforms),
    "TransformersSpeech": (lambda folder: {"pretrained": tiny_whisper(folder / "whisper")}, transcribed),
    "TransformersText": (of_transformers("bert", "sequence"), tokens),
    "TransformersTokens": (of_transformers("bert", "none"), tokens),
    "TransformersChoice": (of_transformers("bert", "none"), choices),
    "TransformersQA": (of_transformers("bert", "qa"), tokens),
    "TransformersSeq2Seq": (of_transformers("t5", "seq2seq"), pairs),
    "TransformersLM": (of_transformers("llama", "lm"), tokens),
}
"""Arguments of a small network, given a folder to write pretrained weights into, and inputs for it."""
every = pytest.mark.parametrize("name", OWN)


def build(name: str, folder: Path, seed: int = 0) -> Network:
    arguments = EXAMPLES[name][0](folder)
    torch.manual_seed(seed)
    task = OWN[name].tasks[0]
    info = {
        "causal_lm": TaskInfo(task, 0),
        "seq2seq": TaskInfo(task, 0),
        "ctc": TaskInfo(task, 0),
        "multiple_choice": TaskInfo(task, 1),
        "extractive_qa": TaskInfo(task, 2, ["start", "end"]),
    }.get(task, TaskInfo(task, 3, ["O", "B-a", "I-a"]))
    network: Network = OWN[name](info, **arguments).eval()
    if isinstance(network, LSTM):
        network.tokenizer.fit(SENTENCES)  # as the data do
    return network


@torch.no_grad()
def said_by(network: Network, name: str) -> Any:
    return network(EXAMPLES[name][1]())


@every
def test_a_network_has_an_example(name: str) -> None:
    assert name in EXAMPLES, f"add {name} to EXAMPLES in tests/networks/test_contract.py: arguments and inputs"


@every
def test_one_pass_gives_logits_of_the_task_on_features_of_the_heads_width(name: str, tmp_path: Path) -> None:
    network = build(name, tmp_path)
    said = said_by(network, name)
    outputs = network.task.num_outputs or said.logits.shape[-1]
    if said.reader is not None:  # of a detector: a candidate has outputs of its box too
        assert said.reader.rows(said.logits).shape[-1] >= outputs + 4
        outputs = said.logits.shape[-1]
    assert said.logits.shape == (*said.features.shape[:-1], outputs)
    assert torch.equal(network.head(said.features), said.logits), "the head says something else of the features"


@every
def test_rows_that_are_selected_are_those_of_the_whole(name: str, tmp_path: Path) -> None:
    network, x = build(name, tmp_path), EXAMPLES[name][1]()
    with torch.no_grad():
        whole = network(x)
        marked = torch.arange(whole.features[..., 0].numel()).view(whole.features.shape[:-1]) % 2 == 0
        part = network(x, marked)
    torch.testing.assert_close(part.logits, whole.logits[marked])


@every
def test_each_parameter_of_the_encoder_is_in_one_layer(name: str, tmp_path: Path) -> None:
    network = build(name, tmp_path)
    assert sorted(n for _, layer in network.layers() for n in layer) == sorted(network.encoder_parameters())


@every
def test_shared_and_new_parameters_are_apart_and_together_all_but_the_source_heads(name: str, tmp_path: Path) -> None:
    network = build(name, tmp_path)
    shared, new = network.shared_parameters(), network.new_parameters()
    assert not shared.keys() & new.keys()
    rest = {n for n, _ in network.named_parameters()} - shared.keys() - new.keys()
    assert all(n.startswith("source_head.") for n in rest), f"neither shared nor new: {rest}"


@every
def test_what_an_export_gives_back_is_pretrained_and_its_source_head_says_what_the_head_said(
    name: str, tmp_path: Path
) -> None:
    network = build(name, tmp_path)
    network.save_pretrained(str(tmp_path / "export"))
    torch.manual_seed(1)
    arguments = {k: v for k, v in EXAMPLES[name][0](tmp_path).items() if k != "config"}
    again = OWN[name](network.task, **{**arguments, "pretrained": str(tmp_path / "export")}).eval()
    assert again.pretrained and not again.fresh
    said, before = said_by(again, name), said_by(network, name)
    torch.testing.assert_close(said.features, before.features, rtol=0, atol=0)
    kept = said.logits if network.shares_outputs else said.source_logits
    torch.testing.assert_close(kept, before.logits, rtol=0, atol=0)
    start = {n: p for n, p in network.named_parameters() if n.startswith("encoder.")}
    assert all(torch.equal(p, start[n]) for n, p in again.shared_parameters().items() if n in start)


@every
def test_a_new_head_depends_on_the_seed_and_nothing_pretrained_does(name: str, tmp_path: Path) -> None:
    one, same, other = build(name, tmp_path), build(name, tmp_path), build(name, tmp_path, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    differ = {n for (n, p), q in zip(one.named_parameters(), other.parameters(), strict=True) if not torch.equal(p, q)}
    assert not differ & one.shared_parameters().keys(), "the seed changes pretrained weights"
    if not one.shares_outputs:
        assert any(n.startswith("head.") for n in differ)


@torch.no_grad()
def test_a_network_read_from_a_file_scores_choices_as_its_copy_does_to_the_bit(tmp_path: Path) -> None:
    """A file's tensors begin anywhere, and a layer of one output is rounded otherwise there."""
    folder = tiny_folder(tmp_path / "bert", "bert", "choices")
    network = OWN["TransformersChoice"](TaskInfo("multiple_choice", 1), pretrained=folder).eval()
    copied = deepcopy(network)
    for seed in range(20):
        torch.manual_seed(seed)
        ids = torch.randint(5, 60, (4, 3, 9))
        x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(network(x).source_logits, copied(x).source_logits)
