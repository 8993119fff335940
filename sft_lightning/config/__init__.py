"""Settings: merges layers of files and flags into one checked configuration."""
