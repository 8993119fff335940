"""Hashes of a run's data, which show whether two runs used the same samples."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor


def fingerprints(splits: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`fingerprint` and `source` of each split, 16 hexadecimal digits each.

    `fingerprint` covers a split's content, rows and targets: it is equal if and only if the samples are. `source` covers
    all the content that the split was drawn from, whichever samples were drawn. Each file is read once.
    """
    behind = {id(split.samples): split.samples for split in splits.values()}
    content = {key: samples.digest() for key, samples in behind.items()}
    drawn, source = {}, {}
    for name, split in splits.items():
        digest = sha256(content[id(split.samples)])
        source[name] = digest.hexdigest()[:16]
        digest.update(split.rows.tobytes())
        if split.targets is not None:
            digest.update(np.ascontiguousarray(split.targets).tobytes())
        drawn[name] = digest.hexdigest()[:16]
    return {"fingerprint": drawn, "source": source}


def tensor_digest(*arrays: np.ndarray | Tensor) -> bytes:
    """sha256 of arrays' bytes."""
    digest = sha256()
    for array in arrays:
        numbers = array.numpy() if isinstance(array, Tensor) else array
        digest.update(str(numbers.shape).encode())
        digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.digest()
