"""Decides whether a model may replace another one: requirements, answers sample by sample, tests, and the verdict in words."""
