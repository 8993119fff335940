"""Holds the source task's data in one object, which the retention monitor and a variant share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule, Split
from sft_lightning.data.drawn import draw
from sft_lightning.data.sampler import Key
from sft_lightning.evaluation.source import check_source, settle_source
from sft_lightning.networks.base import Network
from sft_lightning.tasks import Task, make_task


@contextmanager
def at_retention(place: str = "retention") -> Iterator[None]:
    """Moves errors of the source task's data to the key that it stands under: a data module names keys of `data`."""
    try:
        yield
    except UserError as error:
        raise error.moved("data", place).moved("retention", place) from None


class SourceData:
    """Owns the source task's data module: loads it, checks it against the source head, and prepares its samples.

    Samples are normalised as for the pretrained network, or by the source data's own statistics. The target's mean and
    standard deviation, which the tuned network uses, belong to other images.

    Args:
        data: The data module.
        place: The key that the data stands under, for errors.
    """

    def __init__(self, data: SFTDataModule, place: str = "retention") -> None:
        self.data, self.place = data, place
        self.task: Task | None = None
        """The source task that is measured; None until the data is loaded"""

    @staticmethod
    def of(data: "SourceData | SFTDataModule | None") -> "SourceData | None":
        """Wraps a data module; passes source data and None through."""
        return SourceData(data) if isinstance(data, SFTDataModule) else data

    def load(self, trainer: Any, network: Network, pretrained: Network | None) -> None:
        """Loads the data and prepares it for the network, once.

        Args:
            trainer: The trainer whose ranks and devices use the data.
            network: The network that is tuned, already settled on the target's data.
            pretrained: The network as it was loaded; None if it is trained from scratch.

        Raises:
            UserError: The network has no source head, or one for another task or other classes.
        """
        if self.task is not None:
            return
        self.data.trainer = trainer
        with at_retention(self.place):
            self.data.setup("fit")
            info = check_source(network, self.data)
            settle_source(network, pretrained, self.data)
        self.task = make_task(info)

    # ---- batches ----

    def loader(self, split: str, rank: int, world_size: int, limit: int | float = 1.0) -> DataLoader[Batch]:
        """The batches of 'val' or 'test' for one rank, of the samples that `limit` (batches, or a share) draws."""
        return self.data.loader(split, rank, world_size, limit=limit)

    def training_samples(self, number: int, rank: int = 0, world_size: int = 1, batch: int = 1) -> Iterator[Batch]:
        """This rank's part of `number` training samples, in batches of `batch`, as an evaluation sees them.

        They are drawn evenly, the same in each run. Iterating draws no random number.
        """
        train = self.data.splits["train"]
        split = Split(train.samples, train.rows, train.targets, train=False)
        split.name = train.name
        mine = draw(len(split), number)[rank::world_size]
        for first in range(0, len(mine), batch):
            with at_retention(self.place):
                made = split.__getitems__([Key(int(position), 0) for position in mine[first : first + batch]])
            yield made

    def receive(self, batch: Batch) -> Batch:
        """Finishes a batch on the device, after its transfer."""
        return self.data.receive(batch)

    # ---- answers ----

    def output(self, network: Network, output: Output) -> Output:
        """A network's output with the source task's logits: the kept source head's, or those of a shared output space."""
        if network.shares_outputs:
            return output
        assert output.source_logits is not None
        return output._replace(logits=output.source_logits)
