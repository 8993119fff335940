"""Builds a run's network anew as `test` does, to see that the run's model folder, which is exported, gives its answers."""

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Output
from sft_lightning.export.probe import Probe
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import build_network
from sft_lightning.networks.transforms import apply_transforms
from sft_lightning.runs.checkpoint_io import read_checkpoint

CLOSE = 1e-4
"""Largest difference as a share of the largest output or of 1: merged adapters are rounded otherwise"""
COARSE = 5e-2
"""The same in half precision"""


def rebuilt(tuned: Tuned) -> Network | None:
    """The network of config.yaml with the weights of best.ckpt; None if what it started from is no longer there."""
    files = tuned.run.files
    checkpoint = files.best if files.best.is_file() else files.last
    if not checkpoint.is_file() or tuned.data.task_info is None:
        return None
    held = read_checkpoint(checkpoint)["state_dict"]
    state = {n.removeprefix("network."): t for n, t in held.items() if n.startswith("network.")}
    try:
        network = build_network(tuned.config["network"], tuned.data.task_info)
        apply_transforms(network)
        network.load_state_dict(state)
    except (UserError, RuntimeError, KeyError):
        return None
    return network.requires_grad_(False).eval()


@torch.no_grad()
def check_rebuilt(tuned: Tuned, probe: Probe) -> bool:
    """Raises UserError if the network with best.ckpt answers the first batch otherwise. Returns whether it was tried."""
    network = rebuilt(tuned)
    if network is None:
        return False
    for what, there, own in (
        ("labels", tuned.network.task.labels, network.task.labels),
        ("labels of the source head", tuned.network.source_labels, network.source_labels),
    ):
        if there != own and (what != "labels of the source head" or probe.source):
            raise UserError(
                tuned.run.files.model, f"has other {what} than the run: {there!r:.60}, not {own!r:.60}", "fit again"
            )
    batch, whole = probe.batches[0], all(p.dtype == torch.float32 for p in tuned.network.parameters())
    network.settle(tuned.network.input_view)
    said: Output = (network.float() if whole else network)(batch["x"], tuned.task.select(batch))
    for head, logits in (("new", said.logits), ("source", said.source_logits)):
        if not probe.of(head) or logits is None:
            continue
        theirs, ours = probe.of(head)[0], logits.float()
        allowed = (CLOSE if whole else COARSE) * max(1.0, float(ours.abs().max()))
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=0, atol=allowed, equal_nan=True):
            raise UserError(
                tuned.run.files.model,
                f"does not answer as best.ckpt does ({head} head)",
                f"{network.name}.export_config must return all arguments that change answers; then fit again",
            )
    return True
