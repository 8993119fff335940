"""Names metrics in words, and picks the main ones if no run names them."""

from collections.abc import Iterable

from sft_lightning.core.metric_info import on_validation


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
    """The validation metric that shows best what was learned, if no run names the one that selected its checkpoint."""
    found = [n for n in names if n.startswith("val/")]
    for wanted in ("val/accuracy", "val/f1_macro", "val/f1", "val/token_accuracy", "val/spearman", "val/pearson"):
        if wanted in found:
            return wanted
    return next((n for n in found if n != "val/loss"), found[0] if found else None)


def main_kept(names: Iterable[str], target: str | None, source: str | None = None) -> str | None:
    """The metric that shows best what was kept: the target's own on the source data, or agreement, or drift.

    `source` is the source task's primary metric, if the runs name it.
    """
    found = list(names)
    own = ["retention/" + target.removeprefix("val/")] if target else []
    own += [source] if source else []
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
    """The metric that shows best how far the network moved."""
    found = list(names)
    return next(
        (n for n in ("drift/kl", "drift/source_mse", "drift/weights_relative", "drift/features_cka") if n in found),
        None,
    )
