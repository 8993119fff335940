"""torch.compile on a small text encoder with batches of several lengths: steady gain, break-even, and how often it compiles."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import noise, spread

TITLE = "torch.compile"
LENGTHS, BATCH, WIDTH, LAYERS = (16, 24, 32, 48), 16, 64, 2
STEPS, QUICK = 40, 8
"""Steps of each length"""
HOW = (
    f"An encoder of {LAYERS} transformer layers of width {WIDTH}, forward, backward and AdamW; batches of {BATCH} texts of "
    f"{', '.join(map(str, LENGTHS))} tokens in turns. One thread, one process; medians of CPU time of a step, the first pass "
    "through all lengths left out. Break-even: steps that win back the time of compiling, the C++ compiler left out."
)


def measure(place: Path, quick: bool) -> dict[str, Any]:
    import torch
    from torch._dynamo.utils import counters

    from benchmarks.bench.growth import encoder, step_of

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    number, found, first = (QUICK if quick else STEPS), dict[str, list[float]](), dict[str, float]()
    try:
        steps: dict[str, list[Callable[[], None]]] = {}
        for name in ("eager", "eager once more (A/A)", "compiled"):
            network = encoder(WIDTH, LAYERS)
            if name == "compiled":
                network.compile()
            steps[name], found[name] = [step_of(network, BATCH, length) for length in LENGTHS], []
            began = time.process_time()
            for step in steps[name]:
                step()
            first[name] = time.process_time() - began
        for _ in range(number):
            for at in range(len(LENGTHS)):
                for name in found:
                    began = time.process_time()
                    steps[name][at]()
                    found[name].append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    graphs = int(counters["stats"]["unique_graphs"])
    eager, _, compiled = (spread(found[name]).median for name in found)
    held = noise(found["eager once more (A/A)"], found["eager"])
    cost, gain = first["compiled"] - first["eager"], eager - compiled
    steps_to = cost / gain if gain > 0 else None
    even = "never" if steps_to is None else f"after {steps_to:,.0f} steps"
    return {
        "title": TITLE,
        "how": f"{HOW} A/A control: CPU {held.ratio:.3f} ({held.verdict}). "
        f"Compiled ÷ eager: {compiled / eager:.2f}. Compiling took {cost:.1f} s, won back {even}. "
        f"{graphs} graphs for {len(LENGTHS)} lengths.",
        "rows": [{"what": f"a step, {name}", "cpu": spread(found[name]).median} for name in found],
        "turns": found,
        "noise": {"cpu": held.to_dict()},
        "compiled_over_eager": compiled / eager,
        "break_even_steps": steps_to,
        "graphs_per_length": graphs / len(LENGTHS),
    }
