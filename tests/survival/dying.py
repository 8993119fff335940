"""For `--import tests.survival.dying`: the process kills itself at the moment that SFT_TEST_DIE names.

`fsync:7` dies before the 7th sync of a file, which is then under its temporary name; `rename:7` before the 7th rename;
`renamed:7` after it; `half:3` when half of the 3rd checkpoint is written; `generate:2` before the 2nd batch of generated texts;
`answer:2` before scores of a batch of questions are read the 2nd time, without gradients.
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from sft_lightning.networks.generation import Generation
from sft_lightning.tasks.question_answering import ExtractiveQA

WHAT, _, NUMBER = os.environ.get("SFT_TEST_DIE", "").partition(":")
LEFT = {WHAT: int(NUMBER or 0)}


def tick(what: str) -> None:
    if what in LEFT:
        LEFT[what] -= 1
        if LEFT[what] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def dying() -> None:
    fsync, replace, save, generate, rows = os.fsync, Path.replace, torch.save, Generation.run, ExtractiveQA.rows

    def our_fsync(descriptor: Any) -> None:
        tick("fsync")
        fsync(descriptor)

    def our_replace(self: Path, target: Any) -> Path:
        tick("rename")
        done = replace(self, target)
        tick("renamed")
        return done

    def our_save(thing: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        save(thing, file, *args, **kwargs)
        if LEFT.get("half") == 1:
            file.flush()
            os.truncate(file.name, os.path.getsize(file.name) // 2)
        tick("half")

    def our_generate(self: Generation, *args: Any) -> Any:
        tick("generate")
        return generate(self, *args)

    def our_rows(self: ExtractiveQA, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            tick("answer")
        return rows(self, logits, batch)

    Generation.run, ExtractiveQA.rows = our_generate, our_rows  # type: ignore[method-assign]
    os.fsync, Path.replace, torch.save = our_fsync, our_replace, our_save  # type: ignore[method-assign, assignment]


dying()
