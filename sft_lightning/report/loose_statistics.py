"""Statistics of loose runs: arms that share seeds are compared as a study's arms are."""

from sft_lightning.report.metrics import on_test
from sft_lightning.report.model import LOOSE, Cell, Comparison
from sft_lightning.report.summary import Row, shown

FEWEST = 3  # common seeds


def add(comparison: Comparison, found: list[Row]) -> None:
    """Fills in statistics and answer of the cells of loose runs in which two arms have at least three common seeds.

    The baseline is the plain variant where there is one, else the first arm. Pairs are formed by the run's seed.
    """
    for cell in comparison.cells:
        if cell.study == LOOSE and cell.statistics is None:
            _add(comparison, cell, [r for r in found if r.cell is cell and r.finished])


def _add(comparison: Comparison, cell: Cell, mine: list[Row]) -> None:
    target = {r.group: by_seed(r, comparison.target) for r in mine}
    plain = [r for r in mine if r.variant == "PlainSFT"]
    if not (plain or mine):
        return
    baseline = max(plain or mine, key=lambda r: len(target[r.group])).group
    paired = {g: v for g, v in target.items() if len(v.keys() & target[baseline].keys()) >= FEWEST}
    if len(paired) < 2:
        return
    from sft_lightning.ablation.statistics import cell_statistics

    kept = None
    if comparison.kept is not None:
        kept = {r.group: v for r in mine if r.group in paired and (v := by_seed(r, comparison.kept))} or None
        kept = kept if kept and baseline in kept else None
    names = {"target": shown(comparison.target, mine[0].split)}
    names["kept"] = shown(comparison.kept, mine[0].split) if comparison.kept else ""
    better = {k: comparison.better(m) for k, m in (("target", comparison.target), ("kept", comparison.kept or ""))}
    cell.statistics = cell_statistics(paired, kept, baseline, names, better, None, cell.at)
    cell.answer = str(cell.statistics["answer"])
    comparison.baseline = comparison.baseline or baseline


def by_seed(row: Row, metric: str) -> dict[int, float | None]:
    """{seed: value} of a row's runs, on the split that is shown; the mean where a seed was run several times."""
    name = on_test(metric) if row.split == "test" else metric
    values: dict[int, list[float]] = {}
    for point in row.points:
        if name in point.values and point.seed.lstrip("-").isdigit():
            values.setdefault(int(point.seed), []).append(point.values[name])
    return {seed: sum(v) / len(v) for seed, v in values.items()}
