"""Keeps quiet what libraries say and no user of a command needs."""

import logging
import os
import re
import warnings


def asked_for(record: logging.LogRecord) -> bool:
    """Of Lightning's notices those that `verbose` of ModelCheckpoint and Timer asks for."""
    return record.levelno > logging.INFO or bool(
        re.match(r"Epoch \d+, global step|Time limit reached", record.getMessage())
    )


def quieten() -> None:
    """Lightning's hints and notices are not the user's concern; its warnings are."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)  # what a callback is asked to say
    notices = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notices.setLevel(logging.INFO)
    notices.addFilter(asked_for)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for text in (
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",
        ".*treespec.*",
        ".*set_vital.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*is smaller than the logging interval.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*You have overridden.*transfer_batch_to_device.*",
        ".*Trying to infer the `batch_size`.*",
        ".*You are using a custom batch sampler.*",
        ".*sync_dist=True.*",  # what we log is reduced over ranks already
        ".*srun. command is available on your system but is not used.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=text)
