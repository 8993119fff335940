"""Networks that do not fit one device: parameters, gradients and optimizer state in parts, one on each rank (FSDP2)."""
