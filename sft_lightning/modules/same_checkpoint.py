"""Checks that a checkpoint fits the module that loads it."""

from typing import Any

from sft_lightning.core.errors import UserError


def check_same(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
    """Raises UserError if a checkpoint differs from the module in a setting that both know; names the settings."""
    if theirs is None:
        raise UserError(
            "ckpt_path",
            "the checkpoint is not from this project",
            "set network.init_args.pretrained to start from its weights",
        )
    if ours is None:
        return
    if theirs["variant"] != ours["variant"]:
        raise UserError(
            "ckpt_path",
            f"the checkpoint is from {theirs['variant']}, and the model is {ours['variant']}",
            "set network.init_args.pretrained to its run directory to start from its weights",
        )
    if theirs["network"] != ours["network"]:
        raise UserError(
            "ckpt_path",
            f"the checkpoint holds a {theirs['network']}, and the network is a {ours['network']}",
            "set network as in the checkpoint's run",
        )
    mine, held = ours.get("transforms"), theirs.get("transforms") or []  # older checkpoints lack it
    if mine is not None and mine != held:
        raise UserError(
            "ckpt_path",
            f"the checkpoint's network has transforms {held}, and this network has {mine}",
            "set network.init_args.transforms as in the checkpoint's run",
        )
    for what in ("name", "num_outputs", "labels"):
        mine, held = (ours["task"] or {}).get(what), (theirs["task"] or {}).get(what)
        if mine is not None and held is not None and mine != held:
            raise UserError(
                "ckpt_path",
                f"the checkpoint's task has {what} {held}, and the data's task has {mine}",
                "use the data of the checkpoint's run",
            )
    differ = [
        f"{k} {v!r} (now {ours['anchor'].get(k)!r})" for k, v in theirs["anchor"].items() if ours["anchor"].get(k) != v
    ]
    if differ:
        raise UserError(
            "ckpt_path", f"the checkpoint was trained with {', '.join(differ)}", "set model as in the checkpoint's run"
        )
    if theirs["teacher"] and ours["teacher"] and theirs["teacher"] != ours["teacher"]:
        raise UserError(
            "ckpt_path",
            f"the pretrained weights have changed: the checkpoint's teacher has hash {theirs['teacher'][:12]}, and "
            f"network.init_args.pretrained gives {ours['teacher'][:12]}",
            "use the weights of the checkpoint's run",
        )
