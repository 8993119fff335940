"""Grey images of 28 × 28 pixels in ten classes: handwritten digits, and clothes."""

from sft_lightning.data.vision.in_memory import InMemoryImages


class MNIST(InMemoryImages):
    """Handwritten digits (LeCun et al. 1998): 60,000 to train on, 10,000 to test on."""

    mean = (0.1307,)
    std = (0.3081,)
    dataset = "MNIST"
    files = "MNIST/raw/train-images-idx3-ubyte and its three siblings, unpacked,"


class FashionMNIST(InMemoryImages):
    """Clothes (Xiao et al. 2017): MNIST's format and sizes, harder."""

    mean = (0.2860,)
    std = (0.3530,)
    dataset = "FashionMNIST"
    files = "FashionMNIST/raw/train-images-idx3-ubyte and its three siblings, unpacked,"
