"""Which task a pretrained output layer was trained for."""

PROBLEMS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
"""transformers' problem types, as our tasks are called"""


def source_task_name(task: str | None, outputs: int) -> str:
    """Name of a source head's task: 'classification', 'multi_label' or 'regression'.

    `task` is our own name or transformers' problem type, where it is known. One output is a value whatever is said: argmax
    and softmax of one number say nothing.
    """
    named = PROBLEMS.get(task or "", task)
    if outputs == 1:
        return "multi_label" if named == "multi_label" else "regression"
    return named or "classification"
