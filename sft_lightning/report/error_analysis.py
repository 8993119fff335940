"""Combines the `details.json` of an arm's runs over seeds: layers, confusion matrices, changed samples."""

import re
from statistics import fmean, stdev
from typing import Any

from sft_lightning.report.from_study import as_mapping
from sft_lightning.report.read import number_or_none

MOST_SAMPLES = 12  # shown for each arm
MOST_WORDS = 80  # shown of a sentence
MOST_IMAGE = 60_000  # characters of a data URL
DATA_URLS = {"image": ("data:image/png;base64,",), "sound": ("data:audio/mpeg;base64,", "data:audio/wav;base64,")}
MOST_COLOURS = 20  # listed beside a picture
PICTURES, PICTURE = ("truth", "before", "after"), "data:image/jpeg;base64,"
MEASURES = {
    "relative": "relative change of weights ‖w−w⁰‖/‖w⁰‖",
    "l2": "change of weights ‖w−w⁰‖",
    "cka": "change of features 1 − CKA",
}
Details = list[dict[str, Any]]


def rounded(value: float | None) -> float | None:
    """Six significant digits, which suffice for figures and save space."""
    return None if value is None else float(f"{value:.6g}")


def layers_of(details: Details) -> list[dict[str, Any]]:
    """(layer, index, measure, value, n): means over seeds, in forward order."""
    by: dict[tuple[str, str], list[float]] = {}
    for one in details:
        layers = one.get("layers")
        for layer in layers if isinstance(layers, list) else []:
            for measure in MEASURES:
                value = number_or_none(as_mapping(layer).get(measure))
                if value is not None:
                    by.setdefault((measure, str(layer.get("name"))), []).append(
                        1 - value if measure == "cka" else value
                    )
    order: dict[str, int] = {}
    return [
        {
            "layer": layer,
            "index": order.setdefault(layer, len(order)),
            "measure": measure,
            "value": rounded(fmean(values)),
            "n": len(values),
        }
        for (measure, layer), values in by.items()
    ]


def matrix_of(details: Details, which: str) -> dict[str, Any] | None:
    """Labels and summed counts of the `target`, or of the source task `before` or `after`; None if no run has them."""
    labels: list[str] = []
    summed: list[list[float]] = []
    for one in details:
        part = as_mapping(one.get("confusion" if which == "target" else "source_confusion"))
        counts, names = part.get("counts" if which == "target" else which), part.get("labels")
        if not isinstance(counts, list) or not isinstance(names, list) or not is_matrix(counts, len(names)):
            continue
        mine = [str(n) for n in names]
        if not labels:
            labels, summed = mine, [[0] * len(mine) for _ in mine]
        if labels == mine:
            summed = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(summed, counts, strict=True)]
    return {"labels": labels, "counts": summed} if labels else None


def is_matrix(counts: list[Any], size: int) -> bool:
    """Whether `counts` is size × size finite numbers."""
    return 0 < size == len(counts) and all(
        isinstance(row, list) and len(row) == size and all(number_or_none(c) is not None for c in row) for row in counts
    )


def classes_of(details: Details) -> list[dict[str, Any]]:
    """Classes of the source task over seeds, those that lost most first.

    For each class: `n` samples, means over seeds of the samples `lost` and `gained` and of the `change` of its recall with its
    standard deviation `std` (None for one seed), the paired interval `low`, `high` of a single seed, and in how many seeds of
    `of` it lost more than it gained. Which samples are forgotten differs from seed to seed; which classes are, hardly. A run
    lists at most so many classes, its worst: one that such a list lacks is left out, as its mean would be of its worst seeds.
    """
    by: dict[str, list[dict[str, float]]] = {}
    cut: list[set[str]] = []
    for one in details:
        counted = as_mapping(one.get("lost_and_gained"))
        classes = counted.get("classes")
        listed = [as_mapping(entry) for entry in classes] if isinstance(classes, list) else []
        if sum(number_or_none(entry.get("n")) or 0 for entry in listed) < (number_or_none(counted.get("n")) or 0):
            cut.append({str(entry.get("label")) for entry in listed})
        for entry in listed:
            numbers = {key: number_or_none(entry.get(key)) for key in ("n", "lost", "gained", "change", "low", "high")}
            known = {key: value for key, value in numbers.items() if value is not None}
            if len(known) == len(numbers):
                by.setdefault(str(entry.get("label")), []).append(known)
    by = {label: seeds for label, seeds in by.items() if all(label in one for one in cut)}
    found: list[dict[str, Any]] = []
    for label, seeds in by.items():
        of_each = {key: [s[key] for s in seeds] for key in seeds[0]}
        several = len(seeds) > 1
        found.append(
            {
                "label": label,
                **{key: rounded(fmean(of_each[key])) for key in ("n", "lost", "gained", "change")},
                "std": rounded(stdev(of_each["change"])) if several else None,
                "low": None if several else of_each["low"][0],
                "high": None if several else of_each["high"][0],
                "worse": sum(s["lost"] > s["gained"] for s in seeds),
                "of": len(seeds),
            }
        )
    found.sort(key=lambda c: (c["change"], -c["n"]))
    return found


def samples_of(details: Details) -> dict[str, Any]:
    """The samples that changed in most seeds, most confident first; and the mean numbers of changed and compared samples."""
    by: dict[tuple[str, str], dict[str, Any]] = {}
    for one in details:
        changed = one.get("changed")
        for entry in changed if isinstance(changed, list) else []:
            if isinstance(entry, dict):
                kept = by.setdefault((str(entry.get("on")), str(entry.get("row"))), {**entry, "seeds": 0})
                kept["seeds"] += 1
    best = sorted(by.values(), key=lambda e: (-e["seeds"], -weight_of(e)))
    totals, compared = (
        [t for d in details if (t := number_or_none(d.get(name))) is not None] for name in ("changed_total", "compared")
    )
    return {
        "of": len(details),
        "total": rounded(fmean(totals)) if totals else None,
        "compared": rounded(fmean(compared)) if compared else None,
        "samples": [sample(e) for e in best[:MOST_SAMPLES]],
    }


def weight_of(entry: dict[str, Any]) -> float:
    """The order among samples: confidence of a wrong prediction, or how much less of what is said is right."""
    before, after = (number_or_none(entry.get(f"score_{when}")) for when in ("before", "after"))
    if before is not None and after is not None:
        return before - after
    return number_or_none(entry.get("confidence_after")) or 0.0


def sample(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a changed sample that the page shows; pictures and sounds only if they are small and in the file itself."""
    shown: dict[str, Any] = {"seeds": entry["seeds"]}
    for key in ("on", "name", "label", "before", "after", "question", "choices", "text", "words", "form"):
        if isinstance(held := entry.get(key), list):  # one text for each word, or choice
            shown[key] = [str(one)[: 300 if key == "choices" else 60] for one in held[:MOST_WORDS]]
        elif held is not None:
            shown[key] = str(held)[: 3000 if key == "text" and entry.get("form") == "answer" else 300]
    for key in ("confidence_before", "confidence_after", "score_before", "score_after", "start_before", "start_after"):
        if (value := number_or_none(entry.get(key))) is not None:
            shown[key] = rounded(value)
    for key, starts in DATA_URLS.items():
        held = entry.get(key)
        if isinstance(held, str) and held.startswith(starts) and len(held) <= MOST_IMAGE:
            shown[key] = held
    pictures, colours = as_mapping(entry.get("pictures")), entry.get("colours")
    for key in PICTURES:
        uri = pictures.get(key)
        if isinstance(uri, str) and uri.startswith(PICTURE) and len(uri) <= MOST_IMAGE:
            shown.setdefault("pictures", {})[key] = uri
    if "pictures" in shown and isinstance(colours, list):
        pairs = [pair for pair in colours if isinstance(pair, list) and len(pair) == 2]
        shown["colours"] = [[str(n)[:60], c] for n, c in pairs if re.fullmatch("#[0-9a-f]{6}", str(c))][:MOST_COLOURS]
    return shown
