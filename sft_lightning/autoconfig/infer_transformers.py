"""Infers a network block from a transformers folder or hub name, by its config.json and tokenizer."""

import json
import re
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig.infer_pooling import pooling_of
from sft_lightning.autoconfig.network_plan import NetworkPlan, block, network_errors
from sft_lightning.core.errors import UserError
from sft_lightning.networks.transformers_detection import KINDS as DETECTORS


def of_transformers(name: str, place: str, gguf: str | None = None) -> NetworkPlan:
    """Plans a transformers folder or hub name; its config.json determines the network's class."""
    from transformers import AutoConfig

    with network_errors(name):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **({"gguf_file": gguf} if gguf else {}))
    kind, text = str(config.model_type), config.get_text_config()
    made_as = str((config.architectures or [""])[0])
    labels = [config.id2label[i] for i in sorted(config.id2label or {}, key=int)]
    labels = [] if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels
    if kind in mapped("AUDIO_CLASSIFICATION") or made_as.endswith("ForCTC") or kind in mapped("SPEECH_SEQ_2_SEQ"):
        return of_sounds(name, config, made_as, labels)
    takes = takes_texts(kind) or writes(config)
    if made_as.endswith("ForSemanticSegmentation"):
        segments = {"masks": block("TransformersSegmentation", pretrained=name)}
        plan = NetworkPlan(name, segments, "transformer", len(config.id2label), labels, "semantic_segmentation")
        plan.why = f"model_type {kind}, saved as {made_as}"
        return plan
    if made_as.endswith("ForObjectDetection") and kind in DETECTORS:
        detects = {"boxes": block("TransformersDetection", pretrained=name)}
        plan = NetworkPlan(name, detects, "transformer", len(config.id2label), labels, "object_detection")
        plan.why = f"model_type {kind}, saved as {made_as}"
        return plan
    what = "image" if takes_images(kind, made_as) else "text" if takes else None
    if what is None:
        raise UserError(
            "--network",
            f"{name} is a {kind}, not a text encoder, image classifier or language model",
            "choose another network, or write a study file",
        )
    tags_words = made_as.endswith("ForTokenClassification")
    head = tags_words or made_as.endswith(("ForImageClassification", "ForSequenceClassification"))
    plan = NetworkPlan(name, {}, "transformer", len(config.id2label or {}) if head else None, labels if head else [])
    plan.source_task = getattr(config, "problem_type", None)
    plan.why = f"model_type {kind}" + (f", saved as {made_as}" if made_as else "")
    if what == "image":
        plan.blocks = {"image": block("TransformersImage", pretrained=name)}
        if kind in ("resnet", "regnet", "convnext", "convnextv2", "efficientnet", "mobilenet_v1", "mobilenet_v2"):
            plan.family, plan.batchnorm, plan.any_size = "convolutional", "convnext" not in kind, True
        size = getattr(config, "image_size", None)
        plan.image_size = None if size else 224
        return plan
    plan.max_length = longest(place, text, kind)
    written = writes(config)
    causal = decodes(kind) and not written
    if gguf is None:
        has_words(name, place)
    pooling, why = (None, "") if head and not tags_words else ("last", "") if causal else pooling_of(place, kind)
    plan.why += f"; {why}" if why else ""
    if not written or kind in mapped("SEQUENCE_CLASSIFICATION"):
        plan.blocks = {"text": block("TransformersText", pretrained=name, pooling=pooling)}
    if kind in mapped("TOKEN_CLASSIFICATION") and gguf is None:
        plan.blocks["words"] = block("TransformersTokens", pretrained=name)
    if kind in mapped("MULTIPLE_CHOICE") and not head and gguf is None:
        plan.blocks["choices"] = block("TransformersChoice", pretrained=name)
    if made_as.endswith("ForMultipleChoice"):  # its one output scores a choice
        plan.blocks, plan.source_outputs, plan.source_task = {"choices": plan.blocks["choices"]}, 1, "multiple_choice"
        return plan
    if written and not head:
        plan.blocks["pairs"] = block("TransformersSeq2Seq", pretrained=name)
        plan.blocks_above = getattr(config, "decoder_layers", None) or getattr(config, "num_decoder_layers", None)
    if causal and not head:
        plan.blocks["tokens"] = block("TransformersLM", pretrained=name)
        plan.blocks_above = getattr(text, "num_hidden_layers", None)
    if kind in mapped("QUESTION_ANSWERING") and gguf is None:
        plan.blocks["questions"] = block("TransformersQA", pretrained=name)
    plan.head_kind = "words" if tags_words else "text" if head else None
    if made_as.endswith("ForQuestionAnswering"):
        plan.head_kind, plan.source_outputs, plan.source_task = "questions", 2, "extractive_qa"
    return plan


def of_sounds(name: str, config: Any, made_as: str, labels: list[str]) -> NetworkPlan:
    """Plans a model of sounds as a classifier, and to write transcripts if it was saved with outputs for them.

    The output layer of a classifier is a source head.
    """
    kind, plan = str(config.model_type), NetworkPlan(name, {}, "transformer")
    if kind in mapped("AUDIO_CLASSIFICATION"):
        plan.blocks["audio"] = block("TransformersAudio", pretrained=name)
    if made_as.endswith("ForCTC"):
        plan.blocks["ctc"] = block("TransformersCTC", pretrained=name)
        plan.blocks_above = getattr(config, "num_hidden_layers", None)
    elif made_as.endswith("ForConditionalGeneration"):
        plan.blocks["speech"] = block("TransformersSpeech", pretrained=name)
        plan.blocks_above = getattr(config, "decoder_layers", None)
    if not plan.blocks:
        raise UserError("--network", f"{name} is a {kind} saved as {made_as}", "choose another network")
    if made_as.endswith(("ForSequenceClassification", "ForAudioClassification")):
        plan.source_outputs, plan.source_labels = len(labels) or None, labels
    plan.why = f"model_type {kind}" + (f", saved as {made_as}" if made_as else "")
    return plan


def mapped(what: str) -> Any:
    """Model types for which transformers has a model for the task `what`."""
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, f"MODEL_FOR_{what}_MAPPING_NAMES")


def takes_images(kind: str, made_as: str) -> bool:
    """Whether a model type is an image classifier."""
    return kind in mapped("IMAGE_CLASSIFICATION") and (
        made_as.endswith("ForImageClassification") or kind not in mapped("SEQUENCE_CLASSIFICATION")
    )


def takes_texts(kind: str) -> bool:
    """Whether a model type can classify or generate texts."""
    return kind in mapped("SEQUENCE_CLASSIFICATION") or decodes(kind)


def writes(config: Any) -> bool:
    """Whether a configuration is of an encoder-decoder that writes a target text for a source text."""
    return bool(getattr(config, "is_encoder_decoder", False)) and str(config.model_type) in mapped(
        "SEQ_TO_SEQ_CAUSAL_LM"
    )


def decodes(kind: str) -> bool:
    """Whether a model type is a decoder-only language model."""
    return kind in mapped("CAUSAL_LM") and kind not in mapped("MASKED_LM")


def has_words(name: str, place: str) -> None:
    """Raises UserError if a text model has no tokenizer, or only a stub of one."""
    from transformers import AutoTokenizer

    from sft_lightning.networks import vocabulary

    here = Path(place).is_dir()
    try:
        if here and not vocabulary.has_tokenizer(Path(place)):
            raise vocabulary.no_tokenizer(name)
        with network_errors(f"{name}: its tokenizer"):
            vocabulary.check_words(AutoTokenizer.from_pretrained(place, trust_remote_code=False), name)
    except UserError as error:
        stub = here and not vocabulary.has_words(Path(place))
        raise (vocabulary.no_tokenizer(name) if stub else error).at("--network") from None


def longest(place: str, text_config: Any, kind: str) -> int | None:
    """Most tokens of a text, by the model's configuration and, in a folder, its tokenizer's; None if unknown."""
    positions = getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)
    limits = [positions - 2 if "roberta" in kind or kind == "camembert" else positions] if positions else []
    file = Path(place) / "tokenizer_config.json"
    if file.is_file():
        try:
            said = json.loads(file.read_text(encoding="utf-8")).get("model_max_length")
        except (ValueError, OSError, AttributeError):
            said = None
        limits += [int(said)] if isinstance(said, int | float) and 0 < said < 10**9 else []
    return min(limits) if limits else None


def token_lengths(pretrained: str, texts: list[str]) -> list[int]:
    """Tokens of each text, by the network's tokenizer; for a GGUF file, which loads slowly, at three characters a token."""
    from transformers import AutoTokenizer

    from sft_lightning.networks.weights import resolve

    source = resolve(pretrained)
    if source.file is not None:
        return [-(-len(text) // 3) for text in texts]
    with network_errors(f"{pretrained}: its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.hub or str(source.folder), trust_remote_code=False)
        return [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
