"""Reads torchvision's own weights, from its cache or its server."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.networks.weights import tensors_alone


@contextmanager
def library_weights(weights: Any, pretrained: str, model_name: str) -> Iterator[None]:
    """Context in which torchvision loads `weights`: tensors alone; a damaged file or a failed download is a UserError.

    Args:
        weights: An entry of one of torchvision's weights enums.
        pretrained: What the user called them.
        model_name: The model, for the error.
    """
    try:
        with tensors_alone():
            yield
    except pickle.UnpicklingError:
        raise UserError(
            "network.pretrained",
            f"{Path(torch.hub.get_dir()) / 'checkpoints' / Path(weights.url).name} is damaged, or holds pickled code, "
            "which is never run",
            "remove it, so that it is downloaded again",
        ) from None
    except URLError as error:
        raise UserError(
            "network.pretrained",
            f"{pretrained} of {model_name} cannot be downloaded from {weights.url}: {error.reason}",
            "check the connection, or give a file",
        ) from None
