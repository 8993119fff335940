"""Plans the source data that `--retention` names."""

from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides
from sft_lightning.autoconfig.data_settings import settle
from sft_lightning.autoconfig.infer_data import infer_data
from sft_lightning.autoconfig.network_plan import NetworkPlan
from sft_lightning.autoconfig.recipe import Length
from sft_lightning.core.errors import UserError

SOURCE_TEST, SOURCE_VAL = 0.5, 0.9
"""Shares of source data, which is only measured: half is for testing, and nearly all the rest for validation"""


def source_data(path: str, net: NetworkPlan, plan: DataPlan, said: Overrides) -> DataPlan:
    """Infers the retention data, whose classes must be those of the source head.

    Args:
        path: File or folder.
        net: The network.
        plan: The target's data.
        said: The user's columns of the target's data, which the source data may share, and settings of the source data.
    """
    alone = Overrides(settings=said.settings)
    try:
        try:
            source = infer_data(path, (plan.kind,), net.said, alone)
        except UserError:
            if said == alone:
                raise
            source = infer_data(path, (plan.kind,), net.said, said)  # its columns may have the names of the target's
        settle(source, said)
    except UserError as error:
        start, _, name = error.key.partition(".")
        if error.key == "--data":
            raise error.at("--retention") from None
        raise (error.at(f"retention.{name}") if start == "data" else error) from None
    source.complete(net.source_labels)
    if not plan.keeps_outputs:
        outputs = source.outputs
        if net.source_outputs is None:
            raise UserError(
                "--retention",
                f"{net.name} has no output layer of its own that could be measured on {path}",
                "leave --retention out to measure drift alone, or choose a network with a head",
            )
        if outputs != net.source_outputs:
            raise UserError(
                "--retention",
                f"{path} needs {outputs} outputs, but the network's own head has {net.source_outputs}",
                "give data of the task it was trained on",
            )
        if net.source_labels and source.counts and list(source.counts) != net.source_labels:
            if set(source.counts) != set(net.source_labels):
                other = next(c for c in source.counts if c not in net.source_labels)
                raise UserError(
                    "--retention",
                    f"{path} has a class '{other}', which the network's own head does not have",
                    "give data of the task it was trained on",
                )
            source.block["init_args"]["labels" if plan.kind in ("words", "boxes") else "classes"] = net.source_labels
    source.set_aside(SOURCE_TEST, SOURCE_VAL, "--retention")
    return source


def share_view(source: DataPlan, data: dict[str, Any], run: Length) -> None:
    """Loads source data like the target's, but for what the user sets: same image size, workers and text length, larger
    batches.
    """
    init = source.block["init_args"]
    init.setdefault("batch_size", 4 * run.batch_size)
    for name in ("image_size", "num_workers", "max_length"):
        if name in data["init_args"]:
            init.setdefault(name, data["init_args"][name])
