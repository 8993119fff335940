"""Slurm: submits jobs, reads what a job was given, stops a run in time and has it requeued."""
