"""How a step's time and memory grow: with samples, length, parameters, anchored tensors and items per sample.

Memory is counted, not sampled: bytes that autograd keeps for the backward pass, or bytes of tensors. Each curve stands beside
the law that is expected of it, fitted to its ends; where it bends, the largest distance from the law says so.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TITLE = "How it grows"
REPEATS, QUICK = 15, 3
HOW = (
    "Steps of small networks in one process, on one thread: forward, backward and fused AdamW; for anchors L2-SP's gradient of "
    "the penalty. Time is the lowest quartile of CPU time, memory is counted. The law is fitted to each curve's first and last "
    "point."
)
Step = Callable[[], None]


def encoder(width: int, layers: int) -> Any:
    """A transformer encoder with a head, on token numbers `[B, T]`."""
    import torch
    from torch import Tensor, nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(512, width)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(width, max(1, width // 32), 4 * width, dropout=0.0, batch_first=True)
                for _ in range(layers)
            )
            self.head = nn.Linear(width, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            hidden = self.embedding(tokens)
            for layer in self.layers:
                hidden = layer(hidden)
            found: Tensor = self.head(hidden.mean(1))
            return found

    torch.manual_seed(0)
    return Encoder()


def step_of(network: Any, batch: int, length: int) -> Step:
    """A training step on random tokens."""
    import torch

    tokens = torch.randint(0, 512, (batch, length), generator=torch.Generator().manual_seed(length))
    return training(network, tokens, torch.arange(batch) % 2)


def training(network: Any, x: Any, y: Any) -> Step:
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def kept_by(network: Any, x: Any) -> float:
    """MiB that autograd keeps for the backward pass, weights left out, each memory once."""
    import torch

    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return sum(held.values()) / 2**20


# ---- the curves ----


def over_batch(size: int) -> tuple[Step, float]:
    import torch

    network = encoder(64, 2)
    return step_of(network, size, 16), kept_by(network, torch.zeros(size, 16, dtype=torch.long))


def over_length(size: int) -> tuple[Step, float]:
    import torch

    network = encoder(64, 2)
    return step_of(network, 8, size), kept_by(network, torch.zeros(8, size, dtype=torch.long))


def over_parameters(width: int) -> tuple[Step, float]:
    """Weights, gradients and AdamW's two moments."""
    import torch
    from torch import nn

    network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    step = training(network, torch.randn(20, 64), torch.arange(20) % 10)
    return step, 16 * parameters(width) / 2**20


def parameters(width: int) -> int:
    return 64 * width + width + width * width + width + 10 * width + 10


def over_tensors(count: int) -> tuple[Step, float]:
    """L2-SP's pull on as many tensors of 64 × 64; memory is that of the start's weights."""
    import torch

    from sft_lightning.anchors.weight_space import add_l2sp_gradient

    weights = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(count)]
    start = [w.detach().clone() for w in weights]
    for w in weights:
        w.grad = torch.zeros_like(w)
    return lambda: add_l2sp_gradient(weights, start, 0.01), count * 64 * 64 * 4 / 2**20


def over_items(count: int) -> tuple[Step, float]:
    """Samples with several rows of tokens, such as a question's choices."""
    import torch

    network = encoder(64, 2)
    return step_of(network, 8 * count, 16), kept_by(network, torch.zeros(8 * count, 16, dtype=torch.long))


CURVES: dict[str, tuple[Callable[[int], tuple[Step, float]], tuple[int, ...], Callable[[int], float], str, str]] = {
    "samples in a batch": (over_batch, (4, 8, 16, 32, 64), float, "a + b·n", "b·n"),
    "tokens in a text": (
        over_length,
        (8, 16, 32, 64, 128, 256),
        float,
        "a + b·T, then T² of attention",
        "b·T, then T²",
    ),
    "parameters": (over_parameters, (64, 128, 256, 512, 1024), lambda w: float(parameters(w)), "a + b·P", "16 bytes·P"),
    "anchored tensors": (over_tensors, (4, 8, 16, 32, 64, 128), float, "a + b·n", "one copy"),
    "items in a sample": (over_items, (1, 2, 4, 8), float, "a + b·k", "b·k"),
}
"""{what grows: (step and memory at a size, sizes, the size as drawn, law of time, law of memory)}"""


def measure(place: Path, quick: bool) -> dict[str, Any]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    curves: dict[str, Any] = {}
    try:
        for name, (make, sizes, drawn, of_time, of_memory) in CURVES.items():
            points = [(drawn(size), *at(*make(size), QUICK if quick else REPEATS)) for size in sizes]
            x, times, memory = (list(part) for part in zip(*points, strict=True))
            curves[name] = {
                "x": x,
                "ms": times,
                "mib": memory,
                "law_of_time": of_time,
                "law_of_memory": of_memory,
                "time_bends": bend(x, times),
                "memory_bends": bend(x, memory),
            }
    finally:
        torch.set_num_threads(threads)
    return {"title": TITLE, "how": HOW, "curves": curves}


def at(step: Step, memory: float, repeats: int) -> tuple[float, float]:
    """Milliseconds of a step, and its memory."""
    for _ in range(3):
        step()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        found.append(1e3 * (time.process_time() - began))
    return round(sorted(found)[len(found) // 4], 4), round(memory, 4)


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """A and b of the straight line through the first and the last point."""
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    return y[0] - slope * x[0], slope


def bend(x: list[float], y: list[float]) -> float:
    """The measured value that is farthest from the line, over the line's value."""
    a, b = line(x, y)
    return round(max((value / (a + b * at) for at, value in zip(x, y, strict=True)), key=lambda r: abs(r - 1)), 3)
