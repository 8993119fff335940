"""Silences messages of libraries that users of a command do not need."""

import logging
import os
import re
import warnings


def asked_for(record: logging.LogRecord) -> bool:
    """Tells whether to show a notice of Lightning: warnings, and those that ModelCheckpoint and Timer print if verbose."""
    return record.levelno > logging.INFO or bool(
        re.match(r"Epoch \d+, global step|Time limit reached", record.getMessage())
    )


def quieten() -> None:
    """Silences Lightning's hints and notices, and known harmless warnings."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(
        logging.INFO
    )  # notices that the user turned on, such as verbose=True
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
        ".*sync_dist=True.*",  # values that we log are already reduced over ranks
        ".*srun. command is available on your system but is not used.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=text)
