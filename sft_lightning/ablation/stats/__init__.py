"""The statistics of an ablation, one idea a file; `sft_lightning.ablation.statistics` puts them together for a cell."""
