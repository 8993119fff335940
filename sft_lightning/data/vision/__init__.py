"""Image data sets."""

from sft_lightning.data.vision.cifar import CIFAR10, CIFAR100
from sft_lightning.data.vision.coloured_digits import ColouredDigits
from sft_lightning.data.vision.digits import Digits
from sft_lightning.data.vision.hub_images import HubImages
from sft_lightning.data.vision.image_folder import ImageFolder
from sft_lightning.data.vision.mnist import MNIST, FashionMNIST

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "ColouredDigits", "Digits", "FashionMNIST", "HubImages", "ImageFolder"]
