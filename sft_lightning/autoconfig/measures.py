"""Names the metrics of the default study: what chooses settings, and what the tables show."""

from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan
from sft_lightning.autoconfig.network_plan import NetworkPlan
from sft_lightning.data.base import DATA_MODULES
from sft_lightning.tasks import TaskInfo, make_task


def measures(net: NetworkPlan, plan: DataPlan, source: DataPlan | None) -> tuple[dict[str, Any], list[str]]:
    """Returns (the rule that chooses settings, the metrics of the tables)."""
    shown = metrics_of(plan)
    within = 0.01
    if plan.task == "regression":
        within = float(f"{0.01 * plan.variance:.2g}")  # a hundredth of the variance that could be explained
    compared = net.source_outputs is not None or plan.keeps_outputs
    values = not plan.keeps_outputs and net.source_gives_values  # agreement and KL mean nothing for values
    kept = "drift/source_mse" if values else "retention/agreement" if compared else "drift/features_cka"
    if source is not None:
        kept = f"retention/{metrics_of(source)[0]}"
    report = [f"test/{name}" for name in shown] + [f"test/{kept}"]
    report += ["test/retention/forgetting"] if source is not None else []
    of_source = ["drift/source_mse", "drift/source_correlation"] if values else ["retention/agreement", "drift/kl"]
    report += [f"test/{name}" for name in of_source] if compared else []
    report += ["test/drift/features_cka", "test/drift/weights_relative"]
    select = {"target": f"val/{shown[0]}", "kept": kept, "rule": "keep", "within": within}
    return select, list(dict.fromkeys(report))


def metrics_of(plan: DataPlan) -> list[str]:
    """Metrics to show of data. The first chooses settings: the primary metric, or the loss of a network that generates texts.

    A margin of 0.01 nats means the same for every language model; a margin in perplexity does not.
    """
    cls = DATA_MODULES[plan.block["class_path"]]
    of_data = list(cls(**plan.block["init_args"]).metrics if plan.keeps_outputs else cls.metrics)
    of_data = of_data or list(cls.metrics_by_task.get(plan.task, ()))
    names = make_task(TaskInfo(plan.task, len(plan.counts), plan.labels or list(plan.counts), of_data)).metric_names
    if plan.kind in ("speech", "ctc"):
        return list(dict.fromkeys(["wer", "cer", "loss"] if plan.kind == "ctc" else ["loss", *names, "wer", "cer"]))
    return ["loss", *names] if plan.keeps_outputs else names
