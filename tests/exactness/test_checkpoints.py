"""A checkpoint holds the student, its optimizer and plain values: no teacher, no frozen copy, no code."""

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.exactness import figures
from tests.exactness.jobs import every
from tests.exactness.training import in_one_piece
from tests.support import VARIANTS, quiet_trainer


@cache
def checkpoint(case: str, variant: str, root: Path) -> Path:
    path = root / f"{case}-{variant}.ckpt"
    in_one_piece(case, variant, root).trainer.save_checkpoint(path)
    return path


def tensors(value: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor in nested containers, by its path."""
    if isinstance(value, Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: t for key, v in items for k, t in tensors(v, f"{path}/{key}").items()}


def written_size(held: dict[str, Tensor]) -> int:
    """Bytes of a file with these tensors, each of which has a header there; 0 for none."""
    file = BytesIO()
    torch.save(held, file)
    return len(file.getvalue()) if held else 0


@every("checkpoint holds")
def test_a_checkpoint_is_no_larger_than_plain_sfts_and_holds_no_teacher(root: Path, case: str, variant: str) -> None:
    run = in_one_piece(case, variant, root)
    paths = checkpoint(case, variant, root), checkpoint(case, "plain", root)
    whole, plain = (tensors(torch.load(path, weights_only=True)) for path in paths)
    declared = tuple(f"/{key}/" for key in run.module.checkpoint_keys)
    held = {name: tensor for name, tensor in whole.items() if not (declared and name.startswith(declared))}
    assert held.keys() == plain.keys(), f"other tensors than PlainSFT's: {sorted(held.keys() ^ plain.keys())}"
    own = written_size({name: t for name, t in whole.items() if name not in held})
    larger = (paths[0].stat().st_size - own) / paths[1].stat().st_size - 1
    figures.note("checkpoint, larger than PlainSFT's", larger, "share")
    assert abs(larger) <= 0.05, f"{variant}'s checkpoint is {larger:+.1%} the size of PlainSFT's"
    teacher, network = run.module.teacher, run.module.network
    assert teacher is not None
    frozen = {n for n, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
    held = {
        p: t for p, t in held.items() if p.removeprefix("/state_dict/network.") not in frozen
    }  # as pretrained, and its own
    for name, value in teacher.initial.items():
        if value.min() == value.max():  # as a new norm's: others begin alike
            continue
        copies = [p for p, t in held.items() if t.shape == value.shape and torch.equal(t.double(), value.double())]
        assert not copies, f"{copies} are the teacher's {name}"


@every("checkpoint gives back")
def test_a_checkpoint_gives_the_module_back_without_running_code(root: Path, case: str, variant: str) -> None:
    run = in_one_piece(case, variant, root)
    module = VARIANTS[variant][0].load_from_checkpoint(checkpoint(case, variant, root), weights_only=True)
    assert module.info == run.module.info
    expected = run.module.state_dict()
    for name, value in module.state_dict().items():
        same = torch.equal(value, expected[name].to(value.dtype))
        assert same, f"{name} is not what was saved"
    path = str(checkpoint(case, variant, root))
    (values,) = quiet_trainer().validate(module, run.data, ckpt_path=path, weights_only=True, verbose=False)
    assert "val/loss" in values
