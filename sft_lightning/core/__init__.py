"""The ground: structures, errors, signals, caches, redaction, YAML. It imports nothing of the house, and torch at most."""
