"""Builds the parser of fit, validate, test and predict: data, network, variant, Trainer, and the options of a run.

Building a parser takes a quarter of a second, so each process builds one per command and keeps it.
"""

from functools import cache
from typing import Any

import lightning
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

import sft_lightning.data
import sft_lightning.networks  # noqa: F401  both define the classes that have short names
from sft_lightning.config.files import allow_on_as_key
from sft_lightning.config.options import OPTIONS
from sft_lightning.data.base import SFTDataModule
from sft_lightning.modules import SFTModule
from sft_lightning.networks.base import Network

TRAINER_DEFAULTS = {"num_sanity_val_steps": 0, "log_every_n_steps": 10, "enable_model_summary": False}
NOT_FLAGS = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
"""Arguments of Trainer's methods that are objects"""


@cache
def command_parser(command: str) -> tuple[LightningArgumentParser, list[str]]:
    """Returns (the command's parser, the names of the arguments that Trainer's method of that name takes).

    Args:
        command: 'fit', 'validate', 'test' or 'predict'.
    """
    allow_on_as_key()
    text = (getattr(Trainer, command).__doc__ or "").strip().partition("\n")[0]
    header = [f"lightning.pytorch=={lightning.__version__}"]
    parser = LightningArgumentParser(exit_on_error=False, description=text, dump_header=header)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="Path to a configuration file.")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="Seed of initialisation, order and augmentation."
    )
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(SFTModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(SFTDataModule, "data", subclass_mode=True)
    parser.add_subclass_arguments(
        Network, "network", skip={"task"}, instantiate=False, required=True, help="The network that is tuned."
    )
    parser.add_subclass_arguments(
        SFTDataModule, "retention", required=False, help="The source task's data, to measure what is kept."
    )
    parser.link_arguments("network", "model.init_args.network", compute_fn=plain)
    for name, kind, default, help_text in OPTIONS:
        parser.add_argument(f"--{name}", type=kind, default=default, help=help_text)
    taken = parser.add_method_arguments(Trainer, command, skip=set(NOT_FLAGS))
    parser.set_defaults({"weights_only": True})
    return parser, taken


def plain(network: Any) -> Any:
    """Returns the network's specification as plain values, for the module."""
    return network.as_dict() if isinstance(network, Namespace) else network
