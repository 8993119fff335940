"""Describes a folder that transformers or timm wrote as one of ours, so that a hub's own models are served too."""

import json
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, one_line
from sft_lightning.core.structures import InputView
from sft_lightning.networks.base import Network
from sft_lightning.networks.source_task import source_task_name
from sft_lightning.networks.weights import Source

NETWORKS = "sft_lightning.networks"
OF_TRANSFORMERS = (
    ("AUDIO_CLASSIFICATION", "transformers_audio.TransformersAudio", "classification"),
    ("SEQUENCE_CLASSIFICATION", "transformers_text.TransformersText", ""),
    ("TOKEN_CLASSIFICATION", "transformers_tokens.TransformersTokens", "token_classification"),
    ("QUESTION_ANSWERING", "transformers_qa.TransformersQA", "extractive_qa"),
    ("IMAGE_CLASSIFICATION", "transformers_image.TransformersImage", ""),
    ("SEQ_TO_SEQ_CAUSAL_LM", "transformers_seq2seq.TransformersSeq2Seq", "seq2seq"),
    ("CAUSAL_LM", "transformers_lm.TransformersLM", "causal_lm"),
)
"""transformers' names of its kinds of models, our networks, and their tasks; empty for that of the model's problem type"""


def described(source: Source) -> dict[str, Any]:
    """Our own entry for a folder without one; empty if no network of ours has its model.

    Raises UserError if its config.json cannot be read by transformers.
    """
    config = source.config
    if source.folder is None:
        return {}
    if isinstance(name := config.get("architecture"), str):
        cfg = config.get("pretrained_cfg") or config
        labels = [str(label) for label in config.get("label_names") or cfg.get("label_names") or []]
        classes = int(config.get("num_classes") or cfg.get("num_classes") or 0)
        task = {"name": source_task_name(None, classes), "num_outputs": classes, "labels": labels}
        return {"network": f"{NETWORKS}.timm_models.Timm", "init_args": {"name": name}, "task": task} if classes else {}
    if not config.get("architectures") or "model_type" not in config:
        return {}
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    model, kind = str(config["architectures"][0]), str(config["model_type"])
    for name, network, task_name in OF_TRANSFORMERS:
        known = getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES").get(kind) or ()
        if model not in ((known,) if isinstance(known, str) else known):
            continue
        if task_name == "causal_lm" and not has_template(source.folder):
            return {}  # how a prompt ends, and an answer begins, is then for its user to say
        try:
            whole: Any = AutoConfig.from_pretrained(str(source.folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(source.folder, f"config.json cannot be read: {one_line(str(error))[:200]}") from None
        labels = [whole.id2label[n] for n in sorted(whole.id2label or {}, key=int)]
        outputs = len(labels)
        if task_name in ("seq2seq", "causal_lm"):
            labels, outputs = [], int(whole.get_text_config().vocab_size)
        elif task_name == "extractive_qa":
            labels, outputs = ["start", "end"], 2
        task_name = task_name or source_task_name(whole.problem_type, outputs)
        labels = [] if task_name == "regression" else labels
        task = {"name": task_name, "num_outputs": outputs, "labels": labels}
        return {"network": f"{NETWORKS}.{network}", "init_args": {}, "task": task}
    return {}


def has_template(folder: Path) -> bool:
    """Whether a tokenizer has a chat template."""
    try:
        held = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = {}
    return (folder / "chat_template.jinja").is_file() or bool(isinstance(held, dict) and held.get("chat_template"))


def settle_alone(network: Network) -> None:
    """Feeds a network as its own files say, where no run did."""
    spec = network.input_spec
    network.input_view = InputView(
        spec.size,
        spec.mean,
        spec.std,
        None if spec.view is None else spec.view.to_dict(),
        spec.reverse_channels,
        max_length=spec.max_length,
        sample_rate=spec.sample_rate,
    )
