"""Which task a pretrained output layer was trained for."""

PROBLEMS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
"""transformers' problem types, as our tasks are called"""


def source_task_name(task: str | None, outputs: int) -> str:
    """Name of a source head's task, such as 'classification', 'multi_label' or 'regression'.

    `task` is our own name or transformers' problem type, where it is known. One output is a value, unless it is a label's
    or a choice's: argmax and softmax of one number say nothing.
    """
    named = PROBLEMS.get(task or "", task)
    if outputs == 1:
        return named if named in ("multi_label", "multiple_choice") else "regression"
    return named or "classification"
