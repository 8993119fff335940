"""What a metric's name says: which way is better, how validation and test name it, and words for it."""

from collections.abc import Iterable

LESS_IS_BETTER = (
    "loss",
    "perplexity",
    "mse",
    "mae",
    "rmse",
    "error",
    "forgetting",
)
SIMILARITIES = ("cka", "correlation")
"""What names a likeness among the metrics of drift; the others are distances"""
STAGES = ("val/", "retention/", "drift/")


def better(name: str) -> str:
    """'max' or 'min': whether more or less of a metric is better."""
    stage, _, last = on_validation(name).rpartition("/")
    less = last in LESS_IS_BETTER or (stage == "drift" and not any(word in last for word in SIMILARITIES))
    return "min" if less else "max"


def on_test(name: str) -> str:
    """The test split's name of a metric that validation names `name`: `val/x` → `test/x`, `drift/x` → `test/drift/x`."""
    if name.startswith("test/"):
        return name
    return "test/" + name.removeprefix("val/")


def on_validation(name: str) -> str:
    """The validation split's name of a metric: `test/retention/x` → `retention/x`, `test/x` → `val/x`."""
    if not name.startswith("test/"):
        return name
    rest = name.removeprefix("test/")
    return rest if rest.startswith(("retention/", "drift/")) else f"val/{rest}"


def words(name: str) -> str:
    """A metric in words for an axis or a heading: `retention/accuracy` is 'kept: accuracy'."""
    name = on_validation(name)
    stage, _, what = name.partition("/")
    what = what.replace("_", " ")
    if name == "retention/forgetting":
        return "forgetting"
    if name == "retention/agreement":
        return "agreement with the pretrained network"
    if name == "drift/features_cka":
        return "feature similarity (CKA)"
    return {"val": f"learned: {what}", "retention": f"kept: {what}", "drift": f"drift: {what}"}.get(stage, name)


def main_target(names: Iterable[str]) -> str | None:
    """The validation metric that says best what was learned, where no run says which one chose its checkpoint."""
    found = [n for n in names if n.startswith("val/")]
    for wanted in ("val/accuracy", "val/f1_macro", "val/f1", "val/token_accuracy", "val/spearman", "val/pearson"):
        if wanted in found:
            return wanted
    return next((n for n in found if n != "val/loss"), found[0] if found else None)


def main_kept(names: Iterable[str], target: str | None) -> str | None:
    """The metric that says best what was kept: the target's own on the source data, or agreement, or drift."""
    found = list(names)
    own = ["retention/" + target.removeprefix("val/")] if target else []
    for wanted in (
        *own,
        "retention/accuracy",
        "retention/f1_macro",
        "retention/agreement",
        "drift/kl",
        "drift/source_mse",
    ):
        if wanted in found:
            return wanted
    return next((n for n in found if n.startswith(("retention/", "drift/"))), None)


def main_drift(names: Iterable[str]) -> str | None:
    """The metric that says best how far the network moved."""
    found = list(names)
    return next(
        (n for n in ("drift/kl", "drift/source_mse", "drift/weights_relative", "drift/features_cka") if n in found),
        None,
    )
