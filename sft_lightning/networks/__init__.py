"""Networks: one interface over transformers, timm, torchvision and the small in-house nets.

The wrapped libraries are imported when a network is built, not here.
"""

from sft_lightning.networks.base import InputSpec, Network, Output, Spec, build_network, spec
from sft_lightning.networks.small import MLP, LeNet

__all__ = ["MLP", "InputSpec", "LeNet", "Network", "Output", "Spec", "build_network", "spec"]
