"""Checks that the source data fits the kept source head, and prepares its samples for the network."""

from dataclasses import replace

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.networks.base import Network
from sft_lightning.networks.image_fit import check_shape_fits


def check_source(network: Network, data: SFTDataModule) -> TaskInfo:
    """The source task that is measured. Raises UserError if the source head's task or classes are not those of the data.

    A network that keeps its pretrained outputs, such as a language model, is measured by the source data's own metrics.
    """
    info, said = data.task_info, network.source_task
    assert info is not None
    if network.shares_outputs:
        if info.name != network.task.name:
            raise UserError(
                "retention",
                f"the network's task is {network.task.name}, but the retention data's is {info.name}",
                "give data of the task that the network was trained for, such as PlainText for a language model",
            )
        if network.pretrained is None:
            raise UserError(
                "retention",
                "the network starts from random weights, so that it has nothing to keep",
                "drop retention, or set network.init_args.pretrained",
            )
        return replace(network.task, metrics=info.metrics)
    if network.source_head is None or said is None:
        raise UserError(
            "retention",
            "the network has no source head, as its pretrained weights have no output layer, or pretrained: null or "
            "keep_source_head: false is set",
            "drop retention, or give weights with a head",
        )
    if said.num_outputs != info.num_outputs:
        outputs = "1 output" if said.num_outputs == 1 else f"{said.num_outputs} outputs"
        raise UserError(
            "retention",
            f"the source head has {outputs}, but the retention data has {info.num_outputs} classes",
            "give data of the task that the network was trained for",
        )
    if said.name != info.name:
        raise UserError(
            "retention",
            f"the source head's task is {said.name}, but the retention data's is {info.name}",
            "drop retention, or give data of the task that the network was trained for",
        )
    labels = network.source_labels
    if labels and info.labels and labels != info.labels:
        raise UserError(
            "retention",
            f"the source head's classes are {labels}, but the retention data's are {info.labels}",
            "give data with the same classes in the same order",
        )
    return replace(info, weights=[], focal=0.0)  # what is kept does not depend on how the new task weighs


def settle_source(network: Network, pretrained: Network | None, data: SFTDataModule) -> InputView:
    """Prepares the source data for `network` in the same way as the target's data, which `network` has settled on before.

    Samples are normalised as `pretrained` was, or by the source data's own statistics, since the target's mean and standard
    deviation belong to other images. `network` is not changed. Raises UserError if it cannot take the source samples.
    """
    seen = None if pretrained is None else pretrained.input_spec
    mean, std = (None, None) if seen is None else (seen.mean, seen.std)
    view = data.settle(replace(network.wanted_input(), mean=mean, std=std))
    if view.shape != network.input_view.shape:  # else it was checked with the target's data
        check_shape_fits(network, view)
    return view
