"""Which metric chooses best.ckpt, and which way of a metric is up."""

from sft_lightning.errors import UserError, nearest
from sft_lightning.tasks import TASKS, TaskInfo, make_task

WEIGHTS = ("weights_l2", "weights_relative")


def selecting(info: TaskInfo, select_by: str | None) -> tuple[str, str]:
    """(metric, 'max' or 'min') that chooses among checkpoints."""
    task = make_task(info)
    if select_by is None:
        name, mode = task.primary
        return f"val/{name}", mode
    names = [f"val/{n}" for n in ("loss", *task.metric_names)]
    if select_by not in names and not select_by.startswith(("retention/", "drift/")):
        raise UserError(
            f"select_by: '{select_by}' is not measured on validation{nearest(select_by, names)}; "
            f"there are {', '.join(names)}, and what stands under retention/ and drift/"
        )
    return select_by, better(select_by, info)


def direction(metric: str) -> str | None:
    """'max' or 'min' of a metric of ours, whatever the task; None where neither is better, or it is not one of ours."""
    stage, _, name = metric.partition("/")
    if stage == "drift":
        return "max" if name.startswith("features_cka") else "min" if name in ("kl", *WEIGHTS) else None
    if stage == "train":
        return "min" if name.startswith("loss") else None
    if stage not in ("val", "test", "retention"):
        return None
    if name in ("loss", "forgetting"):
        return "min"
    if name == "agreement":
        return "max"
    return next((t.metric_makers[name][1] for t in TASKS.values() if name in t.metric_makers), None)


def better(metric: str, info: TaskInfo) -> str:
    """Whether 'max' or 'min' of a logged metric is better."""
    stage, _, name = metric.partition("/")
    if metric in ("retention/agreement", "drift/features_cka"):
        return "max"
    if stage == "retention":  # of the source's task, which need not be the target's
        return next((t.metric_makers[name][1] for t in TASKS.values() if name in t.metric_makers), "min")
    return make_task(info).better(name) if stage in ("val", "test") else "min"
