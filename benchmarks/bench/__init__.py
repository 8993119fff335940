"""Speed beside peers: the same work in interleaved turns, and what a command costs. See `python -m benchmarks.run --help`.

No hub, and no threads of tokenizers, which would outlive a fork: set before torch is imported.
"""

import os

for name, value in {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asks for a GPU without starting CUDA, which does not survive a fork
}.items():
    os.environ.setdefault(name, value)
