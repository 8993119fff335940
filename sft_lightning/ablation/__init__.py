"""Carries out a study: plans its points, runs them here or on Slurm, and collects the results."""
