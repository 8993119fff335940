"""The targets of the issue on speed, in one table: each is met, missed by so much, or not measured and why."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.bench.arithmetic import ratio

Results = dict[str, dict[str, Any]]
"""The result of each workload, by name"""
ANCHORED_ON = ("mlp", "lenet", "minilm", "llama", "smollm2", "lite0")
NO_GPU = "needs a GPU: run the command on a machine that has one"


class NotMeasured(Exception):
    """The results lack what a target needs; the message says what."""


@dataclass(frozen=True)
class Target:
    """Lower is better."""

    row: str
    what: str
    bound: float
    value: Callable[[Results], float]
    """Raises NotMeasured"""
    on_gpu: float | None = None
    """The bound where the results are of a GPU, if it is another"""
    arms: tuple[str, str, str] | None = None
    """Workload, arm and the arm it is compared with, whose parts say why it is missed"""


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured."""

    target: Target
    bound: float
    value: float | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.bound

    @property
    def text(self) -> str:
        if self.value is None:
            return f"not measured: {self.why}"
        over = self.value / self.bound - 1
        return (
            "met" if self.met else f"missed by {100 * over:.0f} %" if over >= 0.01 else f"missed by {100 * over:.1f} %"
        )


# ---- what is measured ----


def arm_of(results: Results, workload: str, arm: str) -> dict[str, Any]:
    if workload not in results:
        raise NotMeasured(f"{workload} was not run")
    held = results[workload]
    if "not_run" not in held:
        raise NotMeasured(str(held.get("skipped", "no result")))
    if arm in held["not_run"]:
        raise NotMeasured(f"{arm}: {held['not_run'][arm]}")
    if arm not in held["threads"]["1"]["arms"]:
        raise NotMeasured(f"{workload} was run without {arm}")
    found: dict[str, Any] = held["threads"]["1"]["arms"][arm]
    return found


def time_of(workload: str, arm: str, over: str) -> Callable[[Results], float]:
    """Median over rounds of the ratio of steps: CPU time on one thread, or time on the GPU."""

    def value(results: Results) -> float:
        mine, theirs = (arm_of(results, workload, name) for name in (arm, over))
        measure = "device" if "device" in mine else "cpu"
        return ratio(mine[measure], theirs[measure]).median

    return value


def peak(results: Results, workload: str, arm: str) -> float:
    held = arm_of(results, workload, arm)
    key = "device_peak" if "device_peak" in held else "peak_over_start"
    if key not in held:
        raise NotMeasured("the system does not say the peak of memory")
    return float(held[key])


def peak_of(workload: str, arm: str, over: str, teacher: bool = False) -> Callable[[Results], float]:
    """Ratio of peaks of memory over the start; one copy of the weights less for an arm with a teacher."""

    def value(results: Results) -> float:
        mine, theirs = (peak(results, workload, name) for name in (arm, over))
        return (mine - (results[workload]["weights_mib"] if teacher else 0.0)) / theirs

    return value


def copies_of(workload: str, arm: str) -> Callable[[Results], float]:
    """Memory over plain, in copies of the network's weights."""

    def value(results: Results) -> float:
        more = peak(results, workload, arm) - peak(results, workload, "python")
        return float(more / results[workload]["weights_mib"])

    return value


def said(workload: str, key: str) -> Callable[[Results], float]:
    """A number that the workload's result has itself."""

    def value(results: Results) -> float:
        if results.get(workload, {}).get(key) is None:
            raise NotMeasured(str(results.get(workload, {}).get("skipped", f"{workload} was not run")))
        return float(results[workload][key])

    return value


def never(why: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        raise NotMeasured(why)

    return value


# ---- the table ----


def anchored() -> Iterator[Target]:
    """The rows of L2-SP and of distillation, on each workload that has them."""
    for name in ANCHORED_ON:
        for how in ("loss", "decoupled"):
            pair = (name, f"l2sp_{how}", "python")
            yield Target("L2-SP ÷ plain", f"{name}, {how}", 1.02, time_of(*pair), arms=pair)
    for name in ANCHORED_ON:
        for on in ("features", "source_logits"):
            if name in ("mlp", "lenet", "lite0") or (on == "features" and name != "smollm2"):
                pair = (name, f"distill_{on}", "python")
                where = f"{name}, {on.replace('_', ' ')}"
                yield Target("distill, online ÷ plain", where, 1.33, time_of(*pair), on_gpu=1.20, arms=pair)


CLI = "command line, all telemetry ÷ bare Lightning"
LM = "causal LM, KL-anchored"
TARGETS = (
    Target(CLI, "MLP", 1.05, time_of("mlp", "cli", "bare"), arms=("mlp", "cli", "bare")),
    Target(
        "command line, all telemetry ÷ HF Trainer", "MLP", 1.0, time_of("mlp", "cli", "hf"), arms=("mlp", "cli", "bare")
    ),
    Target(CLI, "LeNet", 0.58, time_of("lenet", "cli", "bare"), arms=("lenet", "cli", "bare")),
    Target(CLI, "MiniLM", 0.55, time_of("minilm", "cli", "bare"), arms=("minilm", "cli", "bare")),
    *anchored(),
    Target(
        "distill, cached ÷ plain",
        "mlp, features",
        1.02,
        time_of("mlp", "distill_cached", "python"),
        arms=("mlp", "distill_cached", "python"),
    ),
    Target(
        "distill, cached ÷ plain",
        "LeNet, features",
        1.02,
        time_of("fixed", "distill_cached", "python"),
        arms=("fixed", "distill_cached", "python"),
    ),
    Target(LM, "llama, peak without the teacher ÷ plain", 1.15, peak_of("llama", "distill_kl", "python", teacher=True)),
    Target(LM, "SmolLM2, the same", 1.15, peak_of("smollm2", "distill_kl", "python", teacher=True)),
    Target(LM, "llama, time ÷ raw chunked KL", 1.1, time_of("llama", "distill_kl", "raw_kl")),
    Target("packing ÷ grouping by length", "llama, time of the same texts", 1.0, time_of("llama", "packed", "python")),
    Target("retention and drift ÷ without", "training time, digits", 1.02, said("study", "retention_over_without")),
    Target(
        "start ÷ a bare Lightning script", "fit with W&B, CPU to the first step", 1.0, said("start", "fit_over_bare")
    ),
    Target("start", "a wrong key, seconds of CPU", 2.0, said("start", "wrong_key_s")),
    Target("end of a run ÷ its parts", "400 steps", 1.1, said("end", "end_over_parts")),
    Target("SmolLM2, plain ÷ transformers' own loss", "time", 1.0, time_of("smollm2", "python", "raw")),
    Target("SmolLM2, plain ÷ transformers' own loss", "peak", 1.05, peak_of("smollm2", "python", "raw")),
    Target("study of 27 fits ÷ 27 commands", "CPU", 0.15, said("study", "study_over_commands")),
    *(
        Target("memory over plain, copies of the weights", f"{name}, {arm}", 1.0, copies_of(name, arm))
        for name, arms in (("minilm", ("l2sp_loss", "distill_features")), ("smollm2", ("l2sp_loss", "distill_kl")))
        for arm in arms
    ),
    Target("images: decoded once", "JPEG folders at the decoder's speed", 1.0, said("decode", "decoding_over_by_hand")),
    Target("torch.compile", "steady gain", 1.0, said("compile", "compiled_over_eager")),
    Target("torch.compile", "graphs for each length", 1.0, said("compile", "graphs_per_length")),
    Target("GPU", "BERT-base, ViT-S and ResNet-50 as the issue says", 1.0, never(NO_GPU)),
)


def verdicts(results: Results) -> list[Verdict]:
    """All targets against the results."""
    on_gpu = any("device" in r.get("threads", {}).get("1", {}).get("noise", {}) for r in results.values())
    found = []
    for target in TARGETS:
        bound = target.on_gpu if on_gpu and target.on_gpu is not None else target.bound
        try:
            found.append(Verdict(target, bound, target.value(results)))
        except NotMeasured as why:
            found.append(Verdict(target, bound, None, str(why)))
    return found
