"""Several arms over several seeds, each arm's strength chosen on validation, test touched by the chosen one alone.

    python benchmarks/seeds.py digits [--seeds 10] [--out benchmarks/results/digits.json]

The rule: among an arm's settings, those whose mean validation metric is within 0.5 points of the arm's best; of these
the one with the best mean retention on the source's validation split. Runs go to a temporary folder.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from sft_lightning.__main__ import main
from sft_lightning.runs import load

STUDIES = {
    "digits": {
        "folder": "experiments/digits",
        "target": "accuracy",
        "arms": {
            "plain": [{}],
            "distill": [{"anchor_weight": w} for w in (0.01, 0.1, 1.0)],
            "l2sp": [{"alpha": a, "beta": 0.0} for a in (0.001, 0.01, 0.1)],
        },
    },
}


def fit(folder: str, arm: str, setting: dict[str, float], seed: int, root: str, extra: list[str]) -> dict[str, float]:
    run_id = f"s{seed}-" + "-".join(f"{k}{v}" for k, v in setting.items()) if setting else f"s{seed}"
    path = Path(root) / f"{Path(folder).name}-{arm}" / run_id
    flags = [x for k, v in setting.items() for x in (f"--model.init_args.{k}", str(v))]
    if not path.exists():
        where = ["--config", f"{folder}/{arm}.yaml", "--runs_dir", root, "--run_id", run_id]
        seeds = ["--seed_everything", str(seed), "--data.init_args.subset_seed", str(seed)]
        code = main(["fit", *where, *seeds, "--wandb", "disabled", "--quiet", "true", *flags, *extra])
        assert code == 0, (arm, setting, seed)
    record = load(path).record
    selected = {k: v["selected"] for k, v in record["metrics"].items() if "selected" in v}
    return {**selected, **{f"test:{k}": v for k, v in record["test"].items()}}


def study(name: str, seeds: int, extra: list[str]) -> dict[str, object]:
    about = STUDIES[name]
    target, result = about["target"], {}
    with tempfile.TemporaryDirectory() as root:
        for arm, settings in about["arms"].items():
            runs = {
                json.dumps(s): [fit(about["folder"], arm, s, seed, root, extra) for seed in range(seeds)]
                for s in settings
            }
            means = {
                key: (
                    statistics.mean(r[f"val/{target}"] for r in values),
                    statistics.mean(r[f"retention/{target}"] for r in values),
                )
                for key, values in runs.items()
            }
            best = max(v for v, _ in means.values())
            chosen = max((k for k, (v, _) in means.items() if v >= best - 0.005), key=lambda k: means[k][1])
            result[arm] = {
                "chosen": json.loads(chosen),
                "validation": {k: [round(x, 4) for x in v] for k, v in means.items()},
            }
            kept = ("retention/forgetting", "drift/kl", "drift/weights_relative")
            for metric in (f"test/{target}", f"retention/{target}", *kept):
                values = [r[f"test:{metric}"] for r in runs[chosen]]
                result[arm][metric] = [round(statistics.mean(values), 4), round(statistics.stdev(values), 4)]
            print(arm, json.dumps(result[arm]), flush=True)
    return {"study": name, "seeds": seeds, "arms": result}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given, rest = parser.parse_known_args()
    found = study(given.study, given.seeds, rest)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
