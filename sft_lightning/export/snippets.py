"""Parts of READMEs that several formats share."""

READ = """def read(image, mode):  # upright, 8 bits a channel, transparency on white
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) * 2 + 257) // 514).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB").convert(mode)


"""
"""How the data modules read an image that Pillow opens; without it a photograph that was turned gets another answer"""
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
