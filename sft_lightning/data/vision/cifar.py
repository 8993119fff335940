"""Colour images of 32 × 32 pixels (Krizhevsky 2009): 50,000 to train on, 10,000 to test on."""

from sft_lightning.data.vision.in_memory import InMemoryImages


class CIFAR10(InMemoryImages):
    """Ten classes of animals and vehicles."""

    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    dataset = "CIFAR10"
    files = "the folder cifar-10-batches-py of cifar-10-python.tar.gz"


class CIFAR100(InMemoryImages):
    """A hundred classes, 500 training images each."""

    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    dataset = "CIFAR100"
    files = "the folder cifar-100-python of cifar-100-python.tar.gz"
