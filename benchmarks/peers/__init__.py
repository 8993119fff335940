"""The invariance checks on this library and on its peers. One thread each, no hub: set before torch is imported."""

import os

for name, value in {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(name, value)
