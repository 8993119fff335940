"""Whether a checkpoint is of the run that asks for it."""

from typing import Any

from sft_lightning.core.errors import UserError


def check_same(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
    """Raises UserError naming each setting in which a checkpoint differs from what was asked for, where that is known."""
    if theirs is None:
        raise UserError(
            "ckpt_path", "the checkpoint is not of this project; to start from weights use network.init_args.pretrained"
        )
    if ours is None:
        return
    if theirs["variant"] != ours["variant"]:
        raise UserError(
            "ckpt_path",
            f"the checkpoint is of {theirs['variant']}, asked for is {ours['variant']}; to start from its weights "
            "instead, set network.init_args.pretrained to its run directory",
        )
    if theirs["network"] != ours["network"]:
        raise UserError("ckpt_path", f"the checkpoint holds a {theirs['network']}, asked for is {ours['network']}")
    mine, held = ours.get("transforms"), theirs.get("transforms") or []  # older checkpoints are without
    if mine is not None and mine != held:
        raise UserError("ckpt_path", f"the checkpoint's network has transforms {held}, asked for are {mine}")
    for what in ("name", "num_outputs", "labels"):
        mine, held = (ours["task"] or {}).get(what), (theirs["task"] or {}).get(what)
        if mine is not None and held is not None and mine != held:
            raise UserError("ckpt_path", f"the checkpoint's task has {what} {held}, the data's {mine}")
    differ = [
        f"{k} {v!r} (asked for: {ours['anchor'].get(k)!r})"
        for k, v in theirs["anchor"].items()
        if ours["anchor"].get(k) != v
    ]
    if differ:
        raise UserError("ckpt_path", f"the checkpoint was trained with {', '.join(differ)}")
    if theirs["teacher"] and ours["teacher"] and theirs["teacher"] != ours["teacher"]:
        raise UserError(
            "ckpt_path",
            f"the checkpoint's teacher has hash {theirs['teacher'][:12]}, network.init_args.pretrained gives "
            f"{ours['teacher'][:12]}: the pretrained weights have changed",
        )
