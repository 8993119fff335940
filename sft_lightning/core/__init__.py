"""The ground: errors, signals, caches, redaction, YAML. It imports nothing of the house."""
