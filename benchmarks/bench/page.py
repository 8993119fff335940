"""docs/performance.md: the part between two marks is written from the results; what stands around it is kept."""

from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import ratio, spread
from benchmarks.bench.arms import ARMS
from benchmarks.bench.parts import reason
from benchmarks.bench.plots import svg
from benchmarks.bench.targets import Results, verdicts
from benchmarks.bench.workload import WORKLOADS

BEGIN, END = "<!-- bench: written by `make bench` -->", "<!-- /bench -->"
INTRO = """# Performance

"""
FIGURE = "growth.svg"
IN_README = (
    "command line, all telemetry ÷ bare Lightning",
    "L2-SP ÷ plain",
    "distill, online ÷ plain",
    "distill, cached ÷ plain",
    "start ÷ a bare Lightning script",
    "study of 27 fits ÷ 27 commands",
    "end of a run ÷ its parts",
)
"""Rows of targets that the README shows"""
FEW = 4
"""From so many numbers on, a row has their range"""
UNITS = {"cpu": "CPU ms", "wall": "wall ms", "device": "GPU ms"}


def shown(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)), ""]


def about_line(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    commit = (
        about["git"]["commit"][:7] + (" with changes" if about["git"]["dirty"] else "") if about["git"] else "unknown"
    )
    load = f"; load at the start {about['load']:.1f}" if about.get("load") is not None else ""
    on = f"{about['date']}, {about['device']}, {about['cores']} cores{load}"
    return f"{on}; commit {commit}; {versions}. `{about['command']}`"


def targets_table(results: Results) -> list[str]:
    rows = []
    for v in verdicts(results):
        bound, value = f"≤ {v.bound:g}", "–" if v.value is None else f"{v.value:.2f}"
        why = reason(results.get("profile"), *v.target.arms) if v.met is False and v.target.arms else ""
        rows.append([v.target.row, v.target.what, bound, value, f"{v.text}; {why}" if why else v.text])
    return ["### Targets", *table(["what", "where", "target", "measured", ""], rows)]


def noise_line(noise: dict[str, Any]) -> str:
    said = (f"{UNITS[m].split()[0]} {n['ratio']:.3f} ({n['verdict']})" for m, n in noise.items())
    return f"A/A control, 1 if the machine is quiet: {', '.join(said)}." if noise else "No A/A control was run."


def turns_tables(result: dict[str, Any]) -> list[str]:
    """One table for each number of threads."""
    lines: list[str] = []
    baseline = result["baseline"]
    for threads, held in result["threads"].items():
        arms = held["arms"]
        measures = [m for m in UNITS if m in arms[baseline]]
        head = ["", *(h for m in measures for h in (f"{UNITS[m]} a step", f"× {baseline}"))]
        peaks = [p for p in ("peak_over_start", "device_peak") if p in arms[baseline]]
        head += [{"peak_over_start": "peak over start, MiB", "device_peak": "GPU peak, MiB"}[p] for p in peaks]
        rows = []
        for name, values in arms.items():
            row = [ARMS[name].title if name in ARMS else name]
            for m in measures:
                over = ratio(values[m], arms[baseline][m])
                row += [shown(spread(values[m]).median), f"**{over.median:.2f}** ({over.low:.2f}–{over.high:.2f})"]
            rows.append([*row, *(f"{values[p]:,.0f}" if p in values else "–" for p in peaks)])
        many = "1 thread" if threads == "1" else f"{threads} threads"
        lines += [f"{many}, {held['rounds']} rounds of {result['steps_of_a_turn']} steps; median (quartiles). "]
        lines[-1] += noise_line(held["noise"])
        lines += table(head, rows)
    return lines


def section(name: str, result: dict[str, Any]) -> list[str]:
    lines = [f"### {result.get('title', name)}", ""]
    if "skipped" in result:
        return [*lines, f"Not run: {result['skipped']}.", ""]
    lines += [about_line(result["about"]), ""]
    if "threads" in result:
        off = max(result["check"]["difference"].values(), default=0.0)
        same = f"Losses after the same steps differ by at most {off:.0e} (bound {result['check']['bound']:.0e})."
        lines += [same, "", *turns_tables(result)]
        lines += [f"Not run: {name}: {why}." for name, why in result["not_run"].items()]
        return [*lines, *([""] if result["not_run"] else [])]
    if "parts" in result:
        said = [f"Not run: {name}: {why}." for name, why in result["not_run"].items()]
        return [*lines, result["how"], *parts_tables(result["parts"]), *said, *([""] if said else [])]
    if "curves" in result:
        return [*lines, result["how"], *curves_table(result["curves"]), f"![{result['title']}]({FIGURE})", ""]
    measures = [m for m in ("cpu", "wall") if all(m in r for r in result["rows"])]
    rows = [[r["what"], *(shown(r[m]) for m in measures)] for r in result["rows"]]
    return [*lines, result["how"], *table(["", *(f"{UNITS[m].split()[0]} s" for m in measures)], rows)]


def parts_tables(held: dict[str, Any]) -> list[str]:
    """One table for each workload: an arm a line, milliseconds and shares of its whole."""
    lines: list[str] = []
    for name, arms in held.items():
        parts = [part for part in next(iter(arms.values())) if part != "cpu"]
        rows = []
        for arm, ms in arms.items():
            cells = [
                f"{shown(ms[part])} ({100 * ms[part] / ms['cpu']:.0f} %)" if ms.get(part) else "–" for part in parts
            ]
            rows.append([ARMS[arm].title if arm in ARMS else arm, shown(ms["cpu"]), *cells])
        lines += table([WORKLOADS[name].title if name in WORKLOADS else name, "CPU ms", *parts], rows)
    return lines


def curves_table(curves: dict[str, Any]) -> list[str]:
    """One line for each thing that grows."""
    head = ["what grows", "from – to", "CPU ms a step", "expected", "farthest from it", "MiB", "expected", "farthest"]
    rows = []
    for name, c in curves.items():
        ends = [f"{shown(c[key][0])} – {shown(c[key][-1])}" for key in ("x", "ms", "mib")]
        bends = [f"× {c['time_bends']:.2f}", f"× {c['memory_bends']:.2f}"]
        rows.append([name, ends[0], ends[1], c["law_of_time"], bends[0], ends[2], c["law_of_memory"], bends[1]])
    return table(head, rows)


def written(results: Results) -> str:
    """What stands between the marks."""
    lines = ["## Measured", "", *targets_table(results)]
    for name, result in results.items():
        lines += section(name, result)
    return "\n".join(lines).strip() + "\n"


def readme_table(results: Results) -> str:
    """The main targets, for the README: those that were measured."""
    rows: dict[str, list[Any]] = {}
    for v in verdicts(results):
        if v.value is not None and v.target.row in IN_README:
            rows.setdefault(v.target.row, []).append(v)
    lines = []
    for name in IN_README:
        if name in rows:
            values, bounds = [v.value for v in rows[name]], list(dict.fromkeys(v.bound for v in rows[name]))
            each = ", ".join(f"{v.target.what} {v.value:.2f}" for v in rows[name])
            short = (
                each
                if len(values) < FEW
                else f"{min(values):.2f} to {max(values):.2f} on {len(values)} workloads and ways"
            )
            lines.append(
                [
                    name,
                    short,
                    f"≤ {', '.join(f'{b:g}' for b in bounds)}",
                    f"{sum(v.met for v in rows[name])} of {len(values)}",
                ]
            )
    return "\n".join(table(["CPU time, lower is better", "measured", "target", "met"], lines)).strip() + "\n"


def write_readme(readme: Path, results: Results) -> None:
    """Replaces the README's table of speed."""
    text = readme.read_text()
    if BEGIN in text and END in text:
        before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
        readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}{END}{after}")


def write(page: Path, results: Results) -> None:
    """Replaces the part between the marks, and draws the curves; adds the part at the end of a page without marks."""
    for result in results.values():
        if "curves" in result:
            (page.parent / FIGURE).write_text(svg(result["curves"]))
    text = page.read_text() if page.is_file() else INTRO
    if BEGIN in text and END in text:
        before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    else:
        before, after = text.rstrip() + "\n\n", "\n"
    page.write_text(f"{before}{BEGIN}\n{written(results)}{END}{after}")
