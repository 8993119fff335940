"""Settings: layers of files and flags to one checked configuration."""
