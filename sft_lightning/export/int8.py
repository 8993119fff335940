"""Quantises an ONNX graph's weights to int8, and measures what that costs in what was learned and in what was kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import DATA_MODULES, SFTDataModule
from sft_lightning.evaluation.source import check_source, settle_source
from sft_lightning.export.formats import SOURCE
from sft_lightning.export.onnx_folder import FILE, silence
from sft_lightning.export.onnx_network import OnnxNetwork
from sft_lightning.export.probe import tidy
from sft_lightning.export.rebuilt import rebuilt
from sft_lightning.export.tuned import Tuned
from sft_lightning.tasks import Task, make_task

INT8 = "model.int8.onnx"


def add_int8(tuned: Tuned, folder: Path, heads: tuple[str, ...]) -> dict[str, Any]:
    """Writes `model.int8.onnx` beside `model.onnx`, and what it loses also into its metadata. Returns the entry of
    parity.json: bytes of both files, and for each head the metric, its values with both graphs, n, and the size of the batches.
    The graph quantises what comes between its layers by the range of a whole batch, so that its answers depend on the batch.
    """
    quantise(folder / FILE, folder / INT8)
    found: dict[str, Any] = {"bytes": {name: (folder / name).stat().st_size for name in (FILE, INT8)}, "heads": {}}
    graphs = {name: OnnxNetwork(folder / name) for name in (FILE, INT8)}
    measured = [("new", tuned.task, tuned.data)]
    if SOURCE in heads:
        try:
            source = source_data(tuned)
            measured.append(("source", make_task(check_source(tuned.network, source)), source))
        except UserError as error:
            found["note"] = f"int8, source head: not measured, since {error}"
    for head, task, data in measured:
        values = {name: measure(graph, head, task, data) for name, graph in graphs.items()}
        metric = task.primary.name
        found["heads"][head] = {
            "metric": metric,
            "float32": values[FILE][metric],
            "int8": values[INT8][metric],
            "n": len(data.splits["val"]),
            "batch_size": data.eval_batch_size or data.batch_size,
        }
    note(folder / INT8, found["heads"])
    return found


def quantise(given: Path, made: Path) -> None:
    """Quantises weights; activations are quantised as they come. Convolutions are only run with unsigned weights."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    convolves = any(node.op_type == "Conv" for node in onnx.load(str(given)).graph.node)
    with silence():
        quantize_dynamic(given, made, weight_type=QuantType.QUInt8 if convolves else QuantType.QInt8)


def note(path: Path, heads: dict[str, Any]) -> None:
    """Adds what was measured to the graph's metadata, as JSON."""
    import onnx

    model = onnx.load(str(path))
    held = model.metadata_props.add()
    held.key, held.value = "int8", json.dumps(heads)
    onnx.save(model, str(path))


# ---- measuring ----


def source_data(tuned: Tuned) -> SFTDataModule:
    """The source task's data, prepared as the run did. Raises UserError if the run measured none, or if they are gone."""
    block = tuned.config.get("retention") or {}
    if "class_path" not in block:
        raise UserError("retention", "the run measured none")
    data = DATA_MODULES.load(str(block["class_path"]), SFTDataModule)(**(block.get("init_args") or {}))
    data.seed = int(tuned.config.get("seed_everything") or 0) if data.seed is None else data.seed
    data.prepare_data()
    data.setup("fit")
    settle_source(tuned.network, rebuilt(tuned) if tuned.network.input_spec.kind == "image" else None, data)
    return data


def measure(graph: OnnxNetwork, head: str, task: Task, data: SFTDataModule) -> dict[str, float]:
    """The task's metrics of one output of a graph on the validation split."""
    meters = task.make_metrics()
    for batch in batches_of(data):
        output = graph(batch["x"], task.select(batch))
        logits = output.logits if head == "new" else output.source_logits
        assert logits is not None
        for meter in meters.values():
            task.update(meter, Output(logits, logits), batch)
    values: dict[str, float] = {}
    for name, meter in meters.items():
        found = meter.compute()
        values |= {n: float(v) for n, v in (found.items() if isinstance(found, dict) else ((name, found),))}
    return values


def batches_of(data: SFTDataModule) -> Iterator[Batch]:
    """The validation samples in batches, as the network sees them."""
    generates, data.generate_samples = data.generate_samples, 0
    try:
        for batch in data.loader("val", 0, 1):
            yield tidy(data.receive(batch))
    finally:
        data.generate_samples = generates
