"""The statistics of an ablation, one method per file; `sft_lightning.stats.cells` applies them to a cell."""
