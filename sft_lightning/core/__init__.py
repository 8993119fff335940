"""Building blocks: structures, errors, signals, caches, redaction, YAML. Imports no other package of ours and at most torch."""
