"""How a detector's outputs are read: each kind of detector brings its own reader."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Reader(Protocol):
    """Reads the outputs of a detector's head, `[R, P, D]` for P places of R images, each image by itself. A: candidates of an
    image, which are boxes that may hold an object; C: classes; S: pixels of the images' sides.
    """

    def places(self, features: Tensor) -> Tensor:
        """The places `[R, Q, D]` of features `[R, P, D]` at which student and teacher are compared."""

    def rows(self, logits: Tensor) -> Tensor:
        """`[R, A, K + 4]` of the candidates at these places: K class outputs, the first C of which are the classes', and those
        of the box, or of a box for each class.
        """

    def losses(self, logits: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`[R]`, each image's loss, given its boxes `[M, 4]` (left, top, right, bottom, in [0, S]) and their classes `[M]`."""

    def detections(self, logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each image boxes `[M, 4]` as above, scores `[M]` in [0, 1], from the highest on, and classes `[M]`."""


class RegionOutputs(NamedTuple):
    """A network's outputs at M regions of R images."""

    regions: list[Tensor]
    """`[K, 4]` of each image: left, top, right, bottom in pixels"""
    features: Tensor
    """`[M, D]`, image after image"""
    logits: Tensor
    """`[M, K + 4]` or `[M, K + 4·C]`, as `Reader.rows` has them"""
    source_logits: Tensor | None
    """The same of the kept source head; None without one"""


@runtime_checkable
class Proposes(Protocol):
    """A reader of outputs at regions that the network proposed itself, which it can have at other regions too."""

    def own(self) -> RegionOutputs:
        """At the network's best proposals."""

    def at(self, regions: list[Tensor]) -> RegionOutputs:
        """At regions of each image that another network proposed."""

    def idle(self, logits: Tensor) -> Tensor:
        """0, with a gradient of 0 for all layers. DDP waits for ever for layers that get no gradient on one of the ranks."""
