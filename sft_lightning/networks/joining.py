"""Joins the pretrained output layer and fresh rows for new labels to one head."""

from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.networks.base import Network
from sft_lightning.networks.joint_head import JointHead


def join(network: Network) -> None:
    """Puts the rows of the pretrained output layer into the network's head, for the first `task.known` labels.

    Raises UserError if the pretrained network has no such layer, or knows other labels.
    """
    task, source, head = network.task, network.source_head, network.head
    if network.pretrained is None or source is None:
        why = "; ".join(network.report.notes[-1:])
        raise UserError(
            "network.pretrained",
            f"has no output layer whose {plural(task.known, 'label')} new ones could be added to"
            + (f" ({why})" if why else ""),
            "choose weights that have one, and leave keep_source_head true",
        )
    linear = isinstance(source, nn.Linear) and isinstance(head, nn.Linear)
    if not linear and not can_join_boxes(network):
        raise UserError(
            "network",
            f"{network.name} has an output layer that new labels cannot be added to",
            "choose another network",
        )
    if network.source_task is not None and network.source_task.name != task.name:
        raise UserError(
            "network.pretrained",
            f"has an output layer for {network.source_task.name}, and the data's task is {task.name}",
            "choose weights of a classifier",
        )
    outputs = network.source_task.num_outputs if network.source_task is not None else task.known
    if outputs != task.known:
        raise UserError(
            "data.known",
            f"there are {plural(task.known, 'old label')}, and the network knows {outputs}",
            "name all labels that the network knows, in its order",
        )
    if (labels := network.source_labels) and labels != task.labels[: task.known]:
        raise UserError(
            "data.known",
            f"the old labels are {task.labels[: task.known]}, and the pretrained network's are {labels}",
            "name the network's labels in its order",
        )
    if isinstance(source, nn.Linear) and isinstance(head, nn.Linear):
        network.head = JointHead(source, head)
    else:
        from sft_lightning.networks.joint_boxes import join_boxes

        join_boxes(source, head)
    if not labels:
        network.report.notes.append(
            "the pretrained labels have no names; the data's old labels are taken in their order"
        )


def can_join_boxes(network: Network) -> bool:
    """Whether it is a detector to whose outputs classes can be added."""
    if network.task.name != "object_detection":
        return False
    from sft_lightning.networks.joint_boxes import can_join

    return network.source_head is not None and can_join(network.source_head) and can_join(network.head)
