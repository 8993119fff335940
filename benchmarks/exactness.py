"""Writes docs/exactness.md from what was measured: `make exactness` runs the tests and the peers, then this.

`python -m benchmarks.exactness` reads `benchmarks/results/exactness.json` (figures and outcomes that the tests left) and
`benchmarks/results/peers.json`, and writes the page. Nothing on the page but the promises' wording is typed in.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/exactness.json"
PEERS = ROOT / "benchmarks/results/peers.json"
PAGE = ROOT / "docs/exactness.md"

PROMISES: list[tuple[str, list[tuple[str, list[str], str]]]] = [
    (
        "The same numbers on any split of the work",
        [
            (
                "Gradients and weights after k optimizer steps do not depend on accumulation (1, 2, 4, 8) or on one or two "
                "processes, for every variant and task: uneven lengths, unevenly masked labels, ragged last batch, last "
                "window not full; anchors too. At most 1e-6 in float64, 1e-5 in float32, relative to each tensor's norm.",
                ["tests/exactness/test_gradients.py", "tests/modules/test_gradient_invariance.py"],
                r"^(clipped )?(gradient|weights)",
            ),
            (
                "The penalty on weights is applied once per optimizer step, after unscaling and before clipping.",
                ["tests/modules/test_l2sp.py", "tests/modules/test_gradient_invariance.py"],
                r"^penalty",
            ),
            (
                "Metrics equal scikit-learn's and scipy's on the concatenated predictions, for n = 1, 5, 21, ragged "
                "batches, one and two processes, inside fit too; the loss is the sum over items by their number; no sample "
                "twice, none left out.",
                ["tests/exactness/test_metrics.py", "tests/tasks/test_tasks.py", "tests/cli/test_parallel.py"],
                r"^metric",
            ),
            (
                "The same seed gives bit-equal weights and metrics; another gives another head and another order; the "
                "labelled subset follows its own seed alone; `config.yaml` alone repeats a run bit for bit.",
                ["tests/exactness/test_seeds.py", "tests/cli/test_commands.py"],
                r"^seed",
            ),
            (
                "Checkpoints hold no teacher and no frozen copy (within 5 % of PlainSFT's size), and load with "
                "`weights_only=True`.",
                ["tests/exactness/test_checkpoints.py", "tests/modules/test_checkpoint.py"],
                r"^checkpoint",
            ),
            (
                "WordPiece, BPE and SentencePiece: left and right padding give the same loss, the true end is supervised "
                "where it pads too, exactly one BOS, labels decode to the completion, a batch without labels costs 0.",
                ["tests/exactness/test_collators.py", "tests/data/test_instructions.py"],
                r"^(loss and gradient of padded|padding|collator)",
            ),
        ],
    ),
    (
        "Nothing lost, whatever dies",
        [
            (
                "Cut off at any moment and resumed, a run ends bit-equal to an undisturbed one: weights, optimizer, "
                "schedule, random states, history, record; dropout, augmentation, EMA, early stopping, 0 and 2 workers, "
                "every variant, every task.",
                ["tests/survival/test_resume.py"],
                r"^(cut off|stopped)",
            ),
            (
                "SIGKILL at random moments and in the middle of writing: `last.ckpt` is always there and whole, and the "
                "resumed run ends bit-equal.",
                ["tests/survival/test_kill.py"],
                r"^killed",
            ),
            (
                "SIGTERM and Ctrl-C finish the step, save, and end with 143 and 130; a second Ctrl-C stops at once.",
                ["tests/cli/test_signals.py", "tests/survival/test_faults.py"],
                r"^$",
            ),
            (
                "NaN losses, full and read-only disks, slow renames, clocks that jump, a second process on the same run, "
                "W&B without server or folder: one line and exit code 2, or the run goes on and says so.",
                ["tests/survival/test_faults.py", "tests/runs/test_wandb.py"],
                r"^faults",
            ),
            (
                "Unreadable samples are named, or skipped and counted; dead loading processes and lack of memory end with "
                "one line.",
                ["tests/survival/test_bad_samples.py", "tests/survival/test_loading.py"],
                r"^$",
            ),
            (
                "Where one of two ranks fails, all end within 60 s, not with 0, and it is said once; killed and begun "
                "again, two processes end bit-equal.",
                ["tests/survival/test_ranks.py"],
                r"^(a rank|two processes killed)",
            ),
        ],
    ),
    (
        "Nothing let in, nothing let out",
        [
            (
                "Pickled code is refused wherever weights or checkpoints come from; `trust_remote_code` is off unless asked "
                "for; paths in tables stay in their folder; YAML is data.",
                [
                    "tests/security/test_pickles.py",
                    "tests/security/test_remote_code.py",
                    "tests/security/test_paths.py",
                    "tests/security/test_yaml.py",
                ],
                r"^$",
            ),
            (
                "Keys and tokens from config, environment and URLs are in no file, no W&B record, no message; the lock file "
                "carries hashes.",
                [
                    "tests/security/test_secrets.py",
                    "tests/security/test_secrets_in_runs.py",
                    "tests/security/test_requirements.py",
                ],
                r"^$",
            ),
            (
                "Mutated configs and data files end in success, or with exit code 2 and one line that names the cause.",
                ["tests/fuzz/test_configs.py", "tests/fuzz/test_files.py", "tests/fuzz/test_found.py"],
                r"^fuzz",
            ),
        ],
    ),
]


def outcome(tests: dict[str, dict[str, int]], file: str) -> str:
    """'12 passed' of a test file, from the outcomes by file."""
    counts = tests.get(file, {})
    return ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "**not run**"


def shown(value: Any, unit: str) -> str:
    number = f"{value:.1e}" if isinstance(value, float) and value and abs(value) < 0.01 else f"{value:g}"
    return f"{number} {unit}".strip()


def figures(results: dict[str, Any], pattern: str) -> list[str]:
    found = [(k, f) for k, f in results["figures"].items() if re.search(pattern, k, re.I)]
    return [f"  - {key}: at most {shown(f['value'], f['unit'])} ({f['cases']:,} cases)" for key, f in found]


def peers_table(peers: dict[str, Any]) -> list[str]:
    names = list(peers["peers"])
    versions = {n: ", ".join(f"{k} {v}" for k, v in peers["peers"][n].items()) for n in names}
    lines = [f"- {n}: {v}" for n, v in versions.items()]
    lines += ["", f"| check (bound) | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    rows: dict[str, dict[str, list[str]]] = {}
    for row in peers["rows"]:
        bound = f" ({row['bound']:.0e})" if row["bound"] else " (0)"
        value = f"{row['value']:.1e}" if row["kind"] != "count" else f"{row['value']:g}"
        said = f"{value}" if row["passed"] else f"**{value}**"
        setting = "" if row["setting"] == "default" else f" with {row['setting']}"
        rows.setdefault(row["check"] + bound, {}).setdefault(row["peer"], []).append(said + setting)
    for check, by_peer in rows.items():
        lines.append(f"| {check} | {' | '.join('; '.join(by_peer.get(n, ['–'])) for n in names)} |")
    return lines


def page(results: dict[str, Any], peers: dict[str, Any]) -> str:
    """The page's text."""
    run = results["run"]
    lines = [
        "# Exactness",
        "",
        "What this project promises about its numbers and its files, the tests that hold each promise, and what they measured.",
        f"Written by `python -m benchmarks.exactness` (`make exactness` measures too). Measured on {run['date']} by",
        f"{', '.join(f'`{c}`' for c in run['commands'])}:",
        f"python {run['python']}, {', '.join(f'{k} {v}' for k, v in run['packages'].items())}; {run['cores']} CPU cores,",
        f"{'with' if run['gpu'] else 'no'} GPU.",
    ]
    for title, promises in PROMISES:
        lines += ["", f"## {title}", ""]
        for text, files, pattern in promises:
            lines.append(f"- {text}")
            lines += [f"  - `{file}`: {outcome(results['tests'], file)}" for file in files]
            lines += figures(results, pattern)
    lines += [
        "",
        "## The same checks on Hugging Face Trainer",
        "",
        f"The same tiny models, data and optimizers, on {peers['date'][:10]}: `{peers['command'].partition(' --out')[0]}`.",
        "Relative errors of gradients and weights against plain PyTorch over accumulation 1, 2, 4, 8 and four optimizer steps,",
        "or counts; **bold** is beyond the bound. Where a documented option changes the outcome, both are shown. What each",
        "setting is, and why a row fails, stands in `benchmarks/results/peers.json`.",
        "",
        *peers_table(peers),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    for path in (RESULTS, PEERS):
        if not path.is_file():
            sys.exit(f"{path.relative_to(ROOT)} is not there: run `make exactness`")
    PAGE.write_text(page(json.loads(RESULTS.read_text()), json.loads(PEERS.read_text())))


if __name__ == "__main__":
    main()
