"""How a detector's outputs are read: each kind of detector brings its own reader."""

from collections.abc import Sequence
from typing import Protocol

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
