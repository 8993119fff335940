"""Infers a data block from tables of instructions with answers, or of conversations."""

from pathlib import Path

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import DataPlan, Overrides
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.instructions import Instructions
from sft_lightning.data.text.layouts import no_layout


def instruction_plan(files: dict[str, Path], table: Table, layout: tuple[str, ...] | None, said: Overrides) -> DataPlan:
    """Plans prompts with answers, or conversations."""
    for flag, value in (("text_column", said.text_column), ("label_column", said.label_column)):
        if value is not None and layout is not None:
            problem = f"has no effect: {table.where} holds instructions in columns {columns.listed(layout)}"
            raise UserError(f"--{flag}", problem, "leave it out, or set --task")
    if layout is None:
        raise no_layout(table)
    plan = DataPlan(
        "tokens",
        "causal_lm",
        {"class_path": "Instructions", "init_args": {split: str(file) for split, file in files.items()}},
        0,
    )
    samples = load_as_fit_does(plan, Instructions, said).train
    assert isinstance(samples, InstructionRows)
    told = [samples.conversations[row].messages for row in columns.spread(len(samples))]
    plan.texts = ["\n".join(str(m["content"]) for m in messages) for messages in told if messages]
    what = f"{plan.train:,} instructions with answers in columns {columns.listed(layout)}"
    plan.lines = [f"{table.where}: {what}", *plan.lines, *samples.read.lines()]
    return plan
