"""transformers.Trainer as a peer: with its defaults, and with batches grouped by length."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.bench.job import FOREVER, Job
from benchmarks.bench.peer_data import collator_of, dataset_of


def same_work(job: Job) -> dict[str, Any]:
    """Settings of every trainer here: a constant rate, a log every 50 steps, no bar, no checkpoint."""
    return {
        "output_dir": str(job.folder),
        "per_device_train_batch_size": job.workload.batch,
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "num_train_epochs": FOREVER,
        "logging_steps": 50,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": job.device.type == "cpu",
    }


def fit(job: Job, **settings: Any) -> None:
    """With its own optimizer, fused AdamW."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    arguments = TrainingArguments(
        **same_work(job),
        remove_unused_columns=False,
        dataloader_pin_memory=job.device.type != "cpu",
        **settings,
    )
    checking = job.check

    class Checked(Trainer):
        """The check's order."""

        def get_train_dataloader(self) -> DataLoader[Any]:
            return job.loader() if checking else super().get_train_dataloader()

    data = dataset_of(job.workload, job.prepared, not checking)
    collate = collator_of(job.workload, job.prepared) or default_data_collator
    torch.manual_seed(0)
    Checked(job.model(), arguments, data_collator=collate, train_dataset=data).train()


def hf(job: Job) -> None:
    fit(job)


def hf_grouped(job: Job) -> None:
    fit(job, train_sampling_strategy="group_by_length")


def trl(job: Job) -> None:
    """TRL's trainer on rows that were tokenised before. Without TRL, untried."""
    import trl as library  # type: ignore[import-not-found]
    from datasets import Dataset
    from transformers import AutoTokenizer

    arguments = library.SFTConfig(
        **same_work(job),
        bf16=False,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    checking = job.check

    class Checked(library.SFTTrainer):  # type: ignore[misc]
        """The check's order."""

        def get_train_dataloader(self) -> Any:
            return job.loader() if checking else super().get_train_dataloader()

    rows = [{"input_ids": i, "labels": t} for i, t in zip(job.prepared.ids, job.prepared.labels, strict=True)]
    tokenizer = AutoTokenizer.from_pretrained(job.prepared.folder)
    Checked(job.model(), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
