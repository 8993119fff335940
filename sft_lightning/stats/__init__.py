"""The statistics of an ablation, one idea a file; `sft_lightning.stats.cells` puts them together for a cell."""
