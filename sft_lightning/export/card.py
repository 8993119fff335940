"""Writes an export's README.md: how to use it, what was learned and kept on which data, limits, and metadata for a hub."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import redaction
from sft_lightning.core.wording import plural
from sft_lightning.export.card_numbers import columns
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.parity import lines
from sft_lightning.export.study_place import StudyPlace, place_of
from sft_lightning.export.tuned import Tuned

PIPELINES = {
    ("image", "classification"): "image-classification",
    ("text", "classification"): "text-classification",
    ("text", "multi_label"): "text-classification",
    ("words", "token_classification"): "token-classification",
    ("choices", "multiple_choice"): "multiple-choice",
    ("questions", "extractive_qa"): "question-answering",
    ("tokens", "causal_lm"): "text-generation",
    ("pairs", "seq2seq"): "translation",
    ("masks", "semantic_segmentation"): "image-segmentation",
    ("boxes", "object_detection"): "object-detection",
    ("audio", "classification"): "audio-classification",
    ("speech", "seq2seq"): "automatic-speech-recognition",
    ("speech", "ctc"): "automatic-speech-recognition",
}
"""The hub's names of tasks, by kind of input and task"""
LIBRARIES = {"transformers": "transformers", "timm": "timm", "onnx": "onnxruntime"}
CONFIG = "training_config.yaml"
WORST = 5  # classes of the source task that are listed
MOST_LABELS = 20


def write_card(tuned: Tuned, made: Format, folder: Path, heads: tuple[str, ...], parity: dict[str, Any]) -> None:
    """Writes README.md, and the run's config.yaml beside it."""
    text = "\n".join(body(tuned, made, heads, parity))
    (folder / CONFIG).write_text(
        yaml.safe_dump(redaction.without(tuned.config), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    (folder / "README.md").write_text(f"---\n{metadata(tuned, made)}\n---\n\n{text}", encoding="utf-8")


def metadata(tuned: Tuned, made: Format) -> str:
    """The hub's metadata as YAML, made by its own library."""
    from huggingface_hub import EvalResult, ModelCardData

    record, results = tuned.run.record, []
    task = PIPELINES.get((tuned.network.input_spec.kind, tuned.task.name))
    for column in columns(tuned, None):
        if column["value"] is not None:
            results.append(
                EvalResult(
                    task_type=task or tuned.task.name.replace("_", "-"),
                    dataset_type=column["data"].lower(),
                    dataset_name=f"{column['data']} ({column['what']})",
                    dataset_config=column["what"],  # the hub joins results that differ in nothing but names and n
                    dataset_split=column["split"],
                    dataset_args={"n": column["n"]},
                    metric_type=column["metric"],
                    metric_name=f"{column['metric']} ({column['what']})",
                    metric_value=round(column["value"], 6),
                )
            )
    start = (record.get("pretrained") or {}).get("name")
    hub = (
        isinstance(start, str) and start.count("/") == 1 and not start.startswith((".", "/", "~")) and ":" not in start
    )
    data = ModelCardData(
        model_name=f"{record.get('experiment', 'run')}-{record.get('run_id', tuned.run.path.name)}",
        library_name=LIBRARIES.get(made.name, "sft_lightning"),
        pipeline_tag=task,
        base_model=start if hub and not Path(str(start)).exists() else None,
        tags=["sft_lightning", str(record.get("variant", "")), tuned.task.name],
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def body(tuned: Tuned, made: Format, heads: tuple[str, ...], parity: dict[str, Any]) -> Iterator[str]:
    """The page, line by line."""
    record, place = tuned.run.record, place_of(tuned.run.path)
    network, task = tuned.network, tuned.task
    yield f"# {record.get('experiment')}: {network.name} tuned by {record.get('variant')}\n"
    labels = f" Its outputs are, in order: {some(task.info.labels)}." if task.info.labels else ""
    yield f"A network for {task.name.replace('_', ' ')}, tuned with sft_lightning.{labels}\n"
    yield "## Use\n"
    yield f"Run this in the folder. `predict` gives one sample's outputs; format: {made.name}.\n"
    yield made.usage(tuned, heads)
    if SOURCE in heads and network.source_task is not None and network.source_labels:
        yield f"The source head's outputs are, in order: {some(network.source_labels)}.\n"
    if (kind := network.input_spec.kind) in ("image", "text"):
        most = network.input_view.max_length
        yield f"Texts are cut at {most} tokens.\n" if kind == "text" and most else ""
    yield "The folder was loaded in a fresh process, and its answers were compared with the run's (`parity.json`):\n"
    yield "\n".join(f"- {line}" for line in lines(parity)) + "\n"
    yield "## What it learned, and what it kept\n"
    yield "| | metric | split | before | after | n | over seeds |\n|---|---|---|---|---|---|---|"
    for row in columns(tuned, place):
        cells = [
            row["what"],
            row["metric"] + (" (less is better)" if row["less_is_better"] else ""),
            row["split"],
            shown(row["before"]),
            shown(row["value"]),
            str(row["n"] or "–"),
        ]
        yield f"| {' | '.join([*cells, row['spread'] or '–'])} |"
    yield ""
    yield from forgotten(tuned)
    yield "## Data\n"
    for block, what in (("data", "Target"), ("retention", "Source, to measure what is kept")):
        about = record.get(block)
        if isinstance(about, dict) and about.get("description"):
            prints = ", ".join(f"{split} `{value}`" for split, value in (about.get("fingerprint") or {}).items())
            yield f"- {what}: {about['description']}. Fingerprints: {prints or 'none'}."
    yield "\n## How it was made\n"
    yield from settings(tuned, place)
    yield "\n## Limits\n"
    yield from limits(tuned, place)


def some(labels: list[str]) -> str:
    """The first labels, quoted."""
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    return ", ".join(f"`{label}`" for label in labels[:MOST_LABELS]) + more


def shown(value: Any) -> str:
    """A metric's value in a table."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else "–"


def forgotten(tuned: Tuned) -> Iterator[str]:
    """The source classes whose recall fell most, if the run counted them."""
    path = tuned.run.files.details
    try:
        details = json.loads(path.read_text(encoding="utf-8"))
        yield from lost_lines(details) if "lost_and_gained" in details else falls_of(details)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return


def lost_lines(details: dict[str, Any]) -> list[str]:
    """What was lost and gained, and the classes that lost most, with 95 % intervals."""
    held, split = details["lost_and_gained"], details.get("split", "")
    about = held.get("beyond_guesses")
    more = f" (about {about['lost']:g} and {about['gained']:g} beyond lucky guesses)" if about else ""
    lines = [f"Of {held['n']} source samples ({split}), {held['lost']} were lost and {held['gained']} gained{more}.\n"]
    worst = [entry for entry in held.get("classes", []) if entry["change"] < 0][:WORST]
    if worst:
        said = (f"{c['label']} {c['change']:+.3f} [{c['low']:.3f}, {c['high']:.3f}] (n = {c['n']})" for c in worst)
        lines.append(f"Change of recall of the source classes that lost most ({split}): {', '.join(said)}.\n")
    elif held.get("classes"):
        lines.append(f"No source class lost recall ({split}).\n")
    return lines


def falls_of(details: dict[str, Any]) -> list[str]:
    """The classes that lost most by the confusions alone, which older runs have."""
    held, split, falls = details["source_confusion"], details.get("split", ""), []
    for at, label in enumerate(held["labels"]):
        before, after = held["before"][at], held["after"][at]
        if sum(before) and sum(after):
            falls.append((after[at] / sum(after) - before[at] / sum(before), label, sum(after)))
    worst = [fall for fall in sorted(falls) if fall[0] < 0][:WORST]
    if worst:
        said = ", ".join(f"{label} {change:+.3f} (n = {n})" for change, label, n in worst)
        return [f"Change of recall of the source classes that lost most ({split}): {said}.\n"]
    return [f"No source class lost recall ({split}).\n"] if falls else []


def settings(tuned: Tuned, place: StudyPlace | None) -> Iterator[str]:
    """Variant, settings, how they were chosen, and the command that repeats the run."""
    record, config = tuned.run.record, tuned.config
    arguments = (config.get("model") or {}).get("init_args") or {}
    given = {n: v for n, v in arguments.items() if v is not None and n not in ("task", "network")}
    yield f"- Variant: {record.get('variant')} with " + ", ".join(f"{n} {v}" for n, v in given.items()) + "."
    start = (record.get("pretrained") or {}).get("name")
    yield f"- Starts from {f'`{start}`' if start else 'random weights'}; seed {record.get('seed')}."
    chosen = record.get("selected") or {}
    if chosen:
        yield f"- Checkpoint: step {chosen.get('step')}, chosen by {chosen.get('by')} on validation."
    if place is None:
        yield "- The settings were given by hand: this run is not part of a study."
    else:
        said = ", ".join(f"{n} {v}" for n, v in place.setting.items()) or "no setting"
        yield f"- Part of the study {place.study}, arm {place.arm}, {said}. " + (
            f"Chosen as: {place.why}." if place.why else "The study chose another setting."
        )
    versions = record.get("versions") or {}
    said = ", ".join(f"{n} {versions[n]}" for n in ("sft_lightning", "torch", "transformers", "timm") if n in versions)
    commit = (record.get("git") or {}).get("commit")
    yield f"- With {said}{f', commit {commit[:12]}' if commit else ''}."
    yield f"\nRepeat it where the data are:\n\n```bash\nsft-lightning fit --config {shlex.quote(CONFIG)}\n```"


def limits(tuned: Tuned, place: StudyPlace | None) -> Iterator[str]:
    """What the numbers do not show."""
    record, metrics = tuned.run.record, tuned.run.record["metrics"]
    sizes = (record.get("data") or {}).get("sizes") or {}
    if "train" in sizes:
        yield f"- It saw {plural(int(sizes['train']), 'training sample')} of one data set, and was measured on that data set."
    if tuned.task.info.labels and tuned.task.has_classes:
        yield f"- It always answers one of {len(tuned.task.info.labels)} classes, also for other inputs."
    if not any(name.startswith("retention/") for name in metrics):
        yield "- What it kept of the pretrained network's task was not measured."
    else:
        yield "- What it kept was measured on one source data set; other knowledge may be lost."
    if not record.get("test"):
        yield "- It was not tested on a test split; validation also chose the checkpoint."
    if place is not None and place.unfinished:
        yield f"- Its study had not ended: {place.unfinished}, so that choices and spread may change."
    if place is None or len(place.rows) < 2:
        yield "- One seed: the spread over seeds is unknown."
    yield "- The weights' license is that of the pretrained network and the data; it is not stated here.\n"
