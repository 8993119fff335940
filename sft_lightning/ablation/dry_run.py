"""What a study would do: its points, their number, and what they would cost."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from sft_lightning.ablation.budget import spoken
from sft_lightning.ablation.engine import Engine
from sft_lightning.ablation.progress import remaining


def show(engine: Engine, workers: int) -> None:
    """Prints each arm's points in each cell, and the cost by the points that are finished already."""
    study = engine.study
    console = Console(file=sys.stdout, highlight=False)
    axes = [a.name for a in study.axes]
    table = Table()
    for name in ("arm", *axes, "settings", "tune", "refit", "test", "done"):
        table.add_column(name, justify="left" if name in ("arm", *axes, "settings") else "right")
    fits = tests = 0
    for cell, arm in engine.places():
        tuning = engine.tuning(cell, arm)
        # With folds, or fewer seeds to tune on than to compare on, the chosen setting is fitted once more.
        one_setting = arm.search is None and len(arm.settings) == 1
        tuned_on = set() if one_setting or study.folds else set(engine.tune_seeds)
        more = len(set(engine.seeds) - tuned_on)
        searched = arm.search["trials"] * len(engine.tune_seeds) * (study.folds or 1) if arm.search else len(tuning)
        finished = sum(engine.look(p).status == "finished" for p in [*tuning, *engine_final(engine, cell, arm)])
        fits, tests = fits + searched + more, tests + len(engine.seeds)
        row = [arm.name, *(str(v) for v in cell.values()), settings(engine, arm), str(searched), str(more)]
        table.add_row(*row, str(len(engine.seeds)), str(finished))
    console.print(table)
    seeds = f"{len(engine.seeds)} seed{'s' * (len(engine.seeds) > 1)}" + (
        " (the budget says how many more)" if engine.only_tune else ""
    )
    console.print(f"{fits} fits and {tests} tests; {seeds}; {workers} workers; {engine.folder.path}", soft_wrap=True)
    left = remaining(engine, workers)
    if left is None:
        console.print("cost: not known before the first point is finished", soft_wrap=True)
    else:
        console.print(f"cost: about {spoken(left)} to go, by the points that are finished", soft_wrap=True)


def engine_final(engine: Engine, cell: dict[str, Any], arm: Any) -> list[Any]:
    """The chosen setting's points, where it is chosen already, but for those of tuning."""
    choice = engine.choice(cell, arm)
    known = {p.id for p in engine.tuning(cell, arm)}
    return [p for p in choice.points if p.id not in known] if choice else []


def settings(engine: Engine, arm: Any) -> str:
    """What an arm chooses among."""
    if arm.search is not None:
        return f"{arm.search['trials']} trials over {', '.join(engine.study.shown(arm.search['ranges']))}"
    shown = engine.study.shown(dict(arm.tune))
    return "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in shown.items())
