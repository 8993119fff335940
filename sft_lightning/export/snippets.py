"""Parts of READMEs that several formats share."""

NONE = """    if scores[0].sum() > scores[a, 0] + scores[b, 1]:  # the first token stands for no answer
        return ""
"""
"""Lines for networks that may say that a context has no answer"""
SWAP = """
`source_head.safetensors` is the pretrained output layer, which the run kept beside the new one, and `source_head.json` its
labels. It belongs on the same features, so it works in the place of the model's own output layer:

```python
import json
from safetensors.torch import load_file
from torch import nn

about, kept = json.load(open("source_head.json")), load_file("source_head.safetensors")
layer = model.get_submodule(about["layer"])
layer.weight = nn.Parameter(kept["weight"].reshape(-1, *layer.weight.shape[1:]))
layer.bias = nn.Parameter(kept["bias"]) if "bias" in kept else None
{labels}# predict(…) now gives the source task's outputs, whose labels are about["labels"]
```
"""


def source_head_in(labels: str = "") -> str:
    """How to call the source head of a folder whose output layer can be replaced.

    Args:
        labels: Attribute of the model that names its outputs; empty if there is none.
    """
    return SWAP.format(labels=f'model.{labels} = dict(enumerate(about["labels"]))\n' if labels else "")
