"""The source task's data: whether the kept source head can be asked about it, and as what network its images are seen."""

from dataclasses import replace

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.networks.base import Network
from sft_lightning.networks.image_fit import check_shape_fits


def check_source(network: Network, data: SFTDataModule) -> TaskInfo:
    """The source task as measured. Raises UserError where the source head does not speak of the data's classes."""
    if network.shares_outputs:
        return network.task
    info, said = data.task_info, network.source_task
    assert info is not None
    if network.source_head is None or said is None:
        raise UserError(
            "retention",
            "the network has no source head to ask: pretrained weights without an output layer, pretrained: "
            "null, or keep_source_head: false",
            "drop retention or give weights with a head",
        )
    if said.num_outputs != info.num_outputs:
        outputs = "1 output" if said.num_outputs == 1 else f"{said.num_outputs} outputs"
        raise UserError("retention", f"the source head has {outputs}, the retention data {info.num_outputs} classes")
    if said.name != info.name:
        raise UserError(
            "retention",
            f"the source head's task is {said.name}, the retention data's {info.name}",
            "drop retention, or give data of the task that the network was trained for",
        )
    labels = network.source_labels
    if labels and info.labels and labels != info.labels:
        raise UserError("retention", f"the source head's classes are {labels}, the retention data's {info.labels}")
    return info


def settle_source(network: Network, pretrained: Network | None, data: SFTDataModule) -> InputView:
    """How the source data feeds `network`: prepared as the target's data was, which `network` has settled on before.

    Normalised as `pretrained` was, else by the source data's own statistics: the target's mean and standard deviation are of
    other images. `network` stays as it is. Raises UserError where it cannot take the source samples.
    """
    seen = None if pretrained is None else pretrained.input_spec
    mean, std = (None, None) if seen is None else (seen.mean, seen.std)
    view = data.settle(replace(network.wanted_input(), mean=mean, std=std))
    check_shape_fits(network, view)
    return view
