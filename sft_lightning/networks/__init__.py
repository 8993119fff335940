"""Networks: one interface over transformers, timm, torchvision and the small in-house nets.

A network imports the library that it wraps when it is built, not here.
"""

from sft_lightning.core.registry import discover
from sft_lightning.core.structures import InputSpec, Output
from sft_lightning.networks.base import NETWORKS, Network
from sft_lightning.networks.lora import LoRA
from sft_lightning.networks.lstm import LSTM
from sft_lightning.networks.small import MLP, LeNet
from sft_lightning.networks.spec import Spec, build_network, spec
from sft_lightning.networks.timm_models import Timm
from sft_lightning.networks.torchvision_models import Torchvision
from sft_lightning.networks.transformers_image import TransformersImage
from sft_lightning.networks.transformers_lm import TransformersLM
from sft_lightning.networks.transformers_text import TransformersText
from sft_lightning.networks.transforms import Transform

__all__ = [
    "LSTM",
    "MLP",
    "InputSpec",
    "LeNet",
    "LoRA",
    "Network",
    "Output",
    "Spec",
    "Timm",
    "Torchvision",
    "Transform",
    "TransformersImage",
    "TransformersLM",
    "TransformersText",
    "build_network",
    "spec",
]

discover(__name__)


def __getattr__(name: str) -> type[Network]:
    """Finds classes that a file of this package defines and that the imports above do not list."""
    if name in NETWORKS:
        return NETWORKS[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
