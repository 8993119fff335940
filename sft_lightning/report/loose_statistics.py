"""Computes statistics of loose runs: arms that share seeds are compared like a study's arms."""

from sft_lightning.core.metric_info import on_test
from sft_lightning.report.model import LOOSE, Cell, Comparison
from sft_lightning.report.summary import Row, shown

FEWEST = 3  # common seeds


def add(comparison: Comparison, found: list[Row]) -> None:
    """Adds statistics and an answer to each cell of loose runs in which two arms have at least three common seeds.

    Metrics with unknown direction are not tested. The baseline is the plain variant if there is one, else the first arm.
    Runs with the same seed and the same labelled samples are a pair. A note is added if arms share seeds but no samples.
    """
    for cell in comparison.cells:
        if cell.study == LOOSE and cell.statistics is None and comparison.info(comparison.target).sign:
            _add(comparison, cell, [r for r in found if r.cell is cell and r.finished])


def _add(comparison: Comparison, cell: Cell, mine: list[Row]) -> None:
    pairs = {name: i for i, name in enumerate(sorted({p.repetition for r in mine for p in r.points}))}
    target = {r.group: by_seed(r, comparison.target, pairs) for r in mine}
    plain = [r for r in mine if r.variant == "PlainSFT"]
    if not (plain or mine):
        return
    baseline = max(plain or mine, key=lambda r: len(target[r.group])).group
    paired = {g: v for g, v in target.items() if len(v.keys() & target[baseline].keys()) >= FEWEST}
    if len(paired) < 2:
        seeds = {r.group: {p.seed for p in r.points} for r in mine}
        if any(g != baseline and len(s & seeds[baseline]) >= FEWEST for g, s in seeds.items()):
            what = (
                "arms share seeds, but were trained on other labelled samples (data fingerprints): they are not paired"
            )
            comparison.notes.add(comparison.label(cell), what)
        return
    from sft_lightning.stats.cells import cell_statistics

    kept = None
    if comparison.kept is not None and comparison.info(comparison.kept).sign:
        kept = {r.group: v for r in mine if r.group in paired and (v := by_seed(r, comparison.kept, pairs))} or None
        kept = kept if kept and baseline in kept else None
    sides = {"target": comparison.target, "kept": comparison.kept or ""}
    metrics = {k: comparison.info(m).named(shown(m, mine[0].split)) for k, m in sides.items()}
    probes = [r.group for r in mine if r.variant == "LinearProbe" and r.group != baseline]
    cell.statistics = cell_statistics(paired, kept, baseline, metrics, None, cell.at, references=probes)
    cell.answer = str(cell.statistics["answer"])
    comparison.baseline = comparison.baseline or baseline


def by_seed(row: Row, metric: str, pairs: dict[str, int]) -> dict[int, float | None]:
    """{number of the pair: value} of a row's runs, on the split that is shown; the mean if a pair's run was repeated."""
    name = on_test(metric) if row.split == "test" else metric
    values: dict[int, list[float]] = {}
    for point in row.points:
        if name in point.values and point.seed.lstrip("-").isdigit():
            values.setdefault(pairs[point.repetition], []).append(point.values[name])
    return {seed: sum(v) / len(v) for seed, v in values.items()}
