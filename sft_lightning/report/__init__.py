"""Implements `compare`: runs and studies side by side, as a table, a page and figures. No module here imports torch."""
