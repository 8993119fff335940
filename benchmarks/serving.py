"""Latency of `serve` with micro-batches against one by one: clients that each ask again as soon as they are answered.

python -m benchmarks.serving RUN [--clients 1 16 64] [--requests 400] [--texts FILE]    # FILE: one text a line

Both services run as processes of their own, one after the other, with warm-up before. `--repeats` alternates them.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

SERVICES = {"one by one": ("--max_batch", "1", "--max_wait_ms", "0"), "micro-batched": ("--max_batch", "32")}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "nobody", "laughed", "not", "once"]


def texts(file: Path | None) -> list[str]:
    """The file's lines; by default texts of 4 to 40 words."""
    if file is not None:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size)) for size in random.integers(4, 41, size=500)]


async def measure(address: str, clients: int, requests: int, held: list[str]) -> np.ndarray:
    """Seconds of each request."""
    left, seconds = iter(range(requests)), []
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits(max_connections=clients)) as client:

        async def ask() -> None:
            for number in left:
                began = time.perf_counter()
                response = await client.post("/predict", json={"texts": [held[number % len(held)]]})
                response.raise_for_status()
                seconds.append(time.perf_counter() - began)

        await asyncio.gather(*(ask() for _ in range(clients)))
    return np.array(seconds)


def serve(run: Path, options: tuple[str, ...]) -> tuple[subprocess.Popen[str], str]:
    """A ready service, and its address."""
    command = [sys.executable, "-m", "sft_lightning", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "is ready" in line:
            return process, line.split()[1]
    raise SystemExit(f"the service ended with {process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--requests", type=int, default=400, help="for each number of clients and each repeat")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--texts", type=Path)
    given = parser.parse_args()
    held = texts(given.texts)
    found: dict[tuple[str, int], Any] = {(name, n): [] for name in SERVICES for n in given.clients}
    for repeat in range(given.repeats):
        for name in sorted(SERVICES, reverse=bool(repeat % 2)):
            process, address = serve(given.run, SERVICES[name])
            asyncio.run(measure(address, 8, 50, held))
            for clients in given.clients:
                began = time.perf_counter()
                seconds = asyncio.run(measure(address, clients, given.requests, held))
                found[name, clients].append((seconds, time.perf_counter() - began))
            process.terminate()
            process.wait()
    print(f"{'clients':>8} {'service':<14} {'p50 ms':>8} {'p99 ms':>8} {'requests/s':>11}")
    for clients in given.clients:
        row: dict[str, tuple[float, float]] = {}
        for name in SERVICES:
            every = np.concatenate([seconds for seconds, _ in found[name, clients]]) * 1000
            row[name] = tuple(np.percentile(every, (50, 99)).tolist())
            rate = len(every) / sum(whole for _, whole in found[name, clients])
            print(f"{clients:>8} {name:<14} {row[name][0]:>8.1f} {row[name][1]:>8.1f} {rate:>11.1f}")
        ratios = [b / a for a, b in zip(row["one by one"], row["micro-batched"], strict=True)]
        print(f"{clients:>8} {'ratio':<14} {ratios[0]:>8.2f} {ratios[1]:>8.2f}")


if __name__ == "__main__":
    main()
