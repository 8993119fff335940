"""Run and study directories in the real format, with made-up numbers: quick to write, and as hostile as a test wants."""

import base64
import csv
import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.stats.cells import cell_statistics

STEPS = (0, 100, 200, 300, 400)
LAYERS = ("encoder.1", "encoder.4", "encoder.7")
OLD, NEW = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]


def png(shade: int, size: int = 16) -> str:
    """A small grey image as a data URL."""
    rows = b"".join(b"\0" + bytes((shade + 9 * x + 5 * y) % 256 for x in range(size)) for y in range(size))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(image).decode()


def outcome(strength: float, shots: int, seed: int, tilt: float = 0.0) -> dict[str, float]:
    """Made-up values at the end: a stronger anchor keeps more, and a very strong one learns less."""
    chance = random.Random(f"{strength} {shots} {seed} {tilt}")
    pull = strength / (strength + 0.05)
    learned = 0.78 + 0.05 * math.log10(shots) * 2 - 0.06 * pull**3 + tilt + chance.gauss(0, 0.008)
    kept = 0.80 + 0.16 * pull + 0.01 * math.log10(shots) + chance.gauss(0, 0.010)
    return {
        "accuracy": min(learned, 1.0),
        "kept": min(kept, 1.0),
        "kl": 2.5 * (1 - pull) + 0.05 + abs(chance.gauss(0, 0.05)),
        "relative": 0.6 * (1 - 0.7 * pull) + abs(chance.gauss(0, 0.01)),
    }


def write_run(
    path: Path,
    *,
    variant: str = "PlainSFT",
    experiment: str = "digits",
    seed: int = 0,
    values: dict[str, float] | None = None,
    settings: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    status: str = "finished",
    tested: bool = True,
    details: bool = True,
    task: str = "classification",
    target: str = "accuracy",
    sample: str = "sample",
) -> dict[str, Any]:
    """One run directory; returns its record."""
    path.mkdir(parents=True)
    ends = values or outcome(0.0, 20, seed)
    final = {
        f"val/{target}": ends["accuracy"],
        "val/loss": 1 - ends["accuracy"],
        "retention/accuracy": ends["kept"],
        "retention/forgetting": 1.0 - ends["kept"],
        "drift/kl": ends["kl"],
        "drift/weights_relative": ends["relative"],
    }
    before = {f"val/{target}": 0.2, "val/loss": 2.1, "retention/accuracy": 1.0}
    history = []
    for step in STEPS:
        done = 1 - math.exp(-3 * step / STEPS[-1]) if step < STEPS[-1] else 1.0
        row = {m: before.get(m, 0.0) + done * (v - before.get(m, 0.0)) for m, v in final.items()}
        history.append({"step": step, "time": 1.0, **row})
    record = {
        "schema": 1,
        "metrics": {
            m: {"before": before.get(m, 0.0), "final": v, "best": v, "best_step": STEPS[-1], "selected": v}
            for m, v in final.items()
        },
        "status": status,
        "experiment": experiment,
        "run_id": path.name,
        "variant": variant,
        "network": "MLP",
        "seed": seed,
        "times": {"started": "2026-01-01T00:00:00Z", "fit_s": 1.0 + seed / 10, "retention_s": 0.05},
        "task": {"name": task, "num_outputs": 5, "labels": NEW, "metrics": []},
        "parameters": {"total": 17226, "trainable": 16901},
        "device": {"type": "cpu", "name": "cpu"},
        "data": {"description": "Digits: 100 train", "fingerprint": {"test": "93b8"}},
        "retention": {"description": "Digits: 507 train", "fingerprint": {"test": "bad6"}},
        "selected": {"by": f"val/{target}", "step": STEPS[-1], "epoch": 79},
        "steps": STEPS[-1],
    }
    if tested:
        record["test"] = {
            f"test/{target}": ends["accuracy"] - 0.004,
            "test/loss": 1 - ends["accuracy"],
            "retention/accuracy": ends["kept"] - 0.003,
            "retention/forgetting": 1.0 - ends["kept"] + 0.003,
            "drift/kl": ends["kl"],
            "drift/weights_relative": ends["relative"],
        }
    config = {
        "seed_everything": seed,
        "experiment": experiment,
        "trainer": {"max_epochs": 80},
        "model": {
            "class_path": f"sft_lightning.modules.{variant}",
            "init_args": {"lr": 0.001, "freeze": None, **(settings or {})},
        },
        "network": {"class_path": "sft_lightning.networks.MLP", "init_args": {"hidden": [128, 64]}},
        "data": {
            "class_path": "sft_lightning.data.Digits",
            "init_args": {"shots_per_class": 20, "subset_seed": seed, **(data or {})},
        },
    }
    (path / "run.json").write_text(json.dumps(record))
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    if details:
        (path / "details.json").write_text(json.dumps(details_of(ends, seed, sample)))
    return record


def details_of(ends: dict[str, float], seed: int, sample: str) -> dict[str, Any]:
    """`details.json` that goes with the values."""
    chance = random.Random(f"details {ends['kept']} {seed}")

    def matrix(accuracy: float) -> list[list[int]]:
        counts = [[0] * 5 for _ in range(5)]
        for true in range(5):
            for _ in range(45):
                counts[true][true if chance.random() < accuracy else chance.randrange(5)] += 1
        return counts

    changed = [
        {
            "on": "retention",
            "row": row,
            "name": f"{sample} {row}",
            "label": OLD[row % 5],
            "before": OLD[row % 5],
            "after": OLD[(row + 1) % 5],
            "confidence_before": 0.99,
            "confidence_after": round(0.95 - row / 100, 3),
            **({"image": png(row * 13 % 256)} if row % 3 else {"text": f"{sample}: the text of row {row}"}),
        }
        for row in range(seed % 3, 12)
    ]
    return {
        "schema": 1,
        "split": "test",
        "step": STEPS[-1],
        "confusion": {"labels": NEW, "counts": matrix(ends["accuracy"])},
        "source_confusion": {"labels": OLD, "before": matrix(1.0), "after": matrix(ends["kept"])},
        "layers": [
            {"name": n, "relative": ends["relative"] * (i + 1) / 3, "l2": i + ends["relative"], "cka": 0.99 - i / 20}
            for i, n in enumerate(LAYERS)
        ],
        "changed": changed,
        "changed_total": len(changed),
        "compared": 225,
        "lost_and_gained": {
            "n": 225,
            "lost": 15 + seed % 2,
            "gained": 1,
            "classes": [
                {"label": name, "n": 45, "lost": 5 - i + seed % 2, "gained": i // 4}
                | {"change": round((i // 4 - 5 + i - seed % 2) / 45, 6), "low": -0.2, "high": 0.05}
                for i, name in enumerate(OLD)
            ],
        },
    }


ARMS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "probe": ("PlainSFT", "lr", (0.001, 0.003)),
    "plain": ("PlainSFT", "lr", (0.0003, 0.001, 0.003)),
    "l2sp": ("L2SPSFT", "alpha", (0.001, 0.01, 0.1)),
    "feature-anchor": ("DistillSFT", "anchor_weight", (0.01, 0.1, 1.0)),
    "logit-anchor": ("DistillSFT", "anchor_weight", (0.03, 0.3, 3.0)),
}
TILT = {"probe": -0.12, "feature-anchor": -0.01, "l2sp": -0.02}


def write_study(path: Path, *, seeds: int = 3, shots: tuple[int, ...] = (5, 20), name: str = "digits") -> Path:
    """A finished study of five arms: 14 settings × cells × seeds points."""
    rows, cells = [], []
    for amount in shots:
        arms: dict[str, Any] = {}
        learned: dict[str, dict[int, float | None]] = {}
        kept: dict[str, dict[int, float | None]] = {}
        for arm, (variant, key, grid) in ARMS.items():
            candidates, points = [], []
            for setting in grid:
                chosen = setting == grid[1]
                means = []
                for seed in range(seeds):
                    strength = setting if key != "lr" else 0.5 if arm == "probe" else 0.0
                    ends = outcome(strength * (3 if arm == "logit-anchor" else 1), amount, seed, TILT.get(arm, 0.0))
                    point = f"{abs(hash_of(arm, amount, setting, seed)):012x}"[:12]
                    record = write_run(
                        path / point,
                        variant=variant,
                        experiment=name,
                        seed=seed,
                        values=ends,
                        settings={key: setting, "freeze": "encoder" if arm == "probe" else None},
                        data={"shots_per_class": amount},
                        tested=chosen,
                        details=chosen,
                    )
                    means.append((ends["accuracy"], ends["kept"]))
                    row: dict[str, Any] = {"point": point, "arm": arm, "shots_per_class": amount, key: setting}
                    row |= {"seed": seed, "selected": int(chosen), "status": "finished", "steps": STEPS[-1]}
                    row |= {m: e["selected"] for m, e in record["metrics"].items()}
                    for m, value in record.get("test", {}).items():
                        row[m if m.startswith("test/") else f"test/{m}"] = value
                    rows.append(row)
                    if chosen:
                        points.append(point)
                        learned.setdefault(arm, {})[seed] = row["test/accuracy"]
                        kept.setdefault(arm, {})[seed] = row["test/retention/accuracy"]
                means_of = [sum(x) / seeds for x in zip(*means, strict=True)]
                candidates.append({"setting": {key: setting}, "target": means_of[0], "kept": means_of[1], "n": seeds})
            why = f"{key} {grid[1]:g} kept the most of the settings within 0.01 of the best"
            arms[arm] = {"variant": variant, "chosen": {key: grid[1]}, "why": why}
            arms[arm] |= {"candidates": candidates, "points": points}
        at = {"shots_per_class": amount} if len(shots) > 1 else {}
        names = {"target": "test/accuracy", "kept": "test/retention/accuracy"}
        about = {side: MetricInfo(name, "max", SHARE) for side, name in names.items()}
        statistics = cell_statistics(learned, kept, "plain", about, 0.01, at)
        cells.append({"at": at, "arms": arms, "statistics": statistics})
    content = {
        "schema": 1,
        "study": name,
        "status": "finished",
        "file": {"study": name, "seeds": seeds},
        "baseline": "plain",
        "axes": {"shots_per_class": list(shots)} if len(shots) > 1 else {},
        "metrics": {
            "target": "val/accuracy",
            "kept": "retention/accuracy",
            "test_target": "test/accuracy",
            "test_kept": "test/retention/accuracy",
            "better": {"target": "max", "kept": "max"},
        },
        "select": {"rule": "keep", "within": 0.01},
        "points": {"total": len(rows), "finished": len(rows), "failed": 0},
        "failures": [],
        "cells": cells,
        "answer": [c["statistics"]["answer"] for c in cells],
    }
    axes = ["shots_per_class"] if len(shots) > 1 else []
    tuned = list(dict.fromkeys(key for _, key, _ in ARMS.values()))
    fixed = ["point", "arm", *axes, *tuned, "seed", "selected", "status", "steps"]
    metrics = list(dict.fromkeys(k for row in rows for k in row if "/" in k))
    with (path / "points.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*fixed, *metrics], restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (path / "study.json").write_text(json.dumps(content))
    return path


def hash_of(*parts: object) -> int:
    """The same in every process."""
    return zlib.crc32(repr(parts).encode()) * 65599 + zlib.adler32(repr(parts[::-1]).encode())
