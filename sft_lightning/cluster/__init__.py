"""Slurm: what this process is given, when it must stop, and how it comes back."""
