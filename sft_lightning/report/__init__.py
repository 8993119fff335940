"""`compare`: runs and studies side by side, as a table, a page and figures. Nothing here imports torch."""
