"""LoRA: freezes pretrained weights and learns a product of two thin matrices beside each."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.networks.adapters import Adapter
from sft_lightning.networks.base import Network
from sft_lightning.networks.tensors import layers_of
from sft_lightning.networks.transforms import Transform
from sft_lightning.sharding.tensors import local, whole

KEY = "network.transforms.LoRA"
NAME = "default"
FOLDER = "adapter"
ENDS = ("lora_B", "lora_embedding_B")
READ_DIRECTLY = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of their sub-layers directly, and so ignore an adapter in such a layer's place"""


class LoRA(Transform):
    """w + s·B·A for each adapted layer: w as pretrained and frozen, A random, B = 0 at the start; s = alpha/r.

    E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), through peft. Only A, B and new layers (the head,
    layers that `pretrained` did not fill) are trained. Adapters have the optimizer's lr and `layer_decay`; its weight decay
    pulls them towards the pretrained network. With dropout off, the network equals its teacher at step 0, bit for bit.
    BatchNorm statistics are frozen with their layers' weights.

    `drift/weights_*` and L2SPSFT use the effective weights w + s·B·A. Exports hold these under the pretrained network's own
    names, so they load without peft; their folder `adapter/` holds the adapter alone, for peft. `ema_decay` averages A and B
    separately; validation and export use the network with both averages.

    Args:
        r: Rank: number of rows of A and of columns of B.
        alpha: Sets the scale s = alpha/r, so that one learning rate suits several ranks.
        dropout: Probability of dropping an input value of A, in training.
        target_modules: Which layers of the encoder are adapted: all-linear, or a list of regular expressions that are searched
            in the names of linear, convolutional and embedding layers.
        use_rslora: Set s = alpha/√r instead of alpha/r (Kalajdzievski 2023), for large ranks.
    """

    def __init__(
        self,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: Literal["all-linear"] | list[str] = "all-linear",
        use_rslora: bool = False,
    ) -> None:
        if isinstance(r, bool) or not isinstance(r, int) or r < 1:
            raise UserError(f"{KEY}.r", f"must be a whole number from 1, got {r!r}")
        if not 0.0 < alpha < math.inf:
            raise UserError(f"{KEY}.alpha", f"must be a number above 0, got {alpha!r}")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"{KEY}.dropout", f"must be in [0, 1), got {dropout!r}")
        if target_modules != "all-linear" and (isinstance(target_modules, str) or not target_modules):
            raise UserError(
                f"{KEY}.target_modules", f"must be all-linear or a list of regular expressions, got {target_modules!r}"
            )
        self.r, self.alpha, self.dropout, self.use_rslora = r, float(alpha), dropout, use_rslora
        self.target_modules: str | list[str] = target_modules

    def settings(self) -> dict[str, Any]:
        names = ("r", "alpha", "dropout", "target_modules", "use_rslora")
        return {name: getattr(self, name) for name in names}

    def apply(self, network: Network) -> None:
        """Replaces the chosen layers by peft's, and freezes what `pretrained` filled."""
        if find_spec("peft") is None:
            raise UserError(KEY, "LoRA needs the package peft", "pip install 'sft-lightning[lora]'")
        from peft import LoraConfig, inject_adapter_in_model

        encoder, names = network.encoder, self.targets(network)
        before = {id(p): n for n, p in network.named_parameters()}
        kept, moves = network.shared_parameters(), {id(p) for p in network.parameters() if p.requires_grad}
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            target_modules="|".join(map(re.escape, names)),
        )
        mode = encoder.training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of layers that store their weight transposed, and handles them
            inject_adapter_in_model(config, encoder, NAME)
        encoder.train(mode)
        for parameter in network.parameters():
            if id(parameter) in before:
                parameter.requires_grad_(id(parameter) in moves and before[id(parameter)] not in kept)
        network.renamed |= {n: old for n, p in network.named_parameters() if (old := before.get(id(p), n)) != n}
        network.adapters += [LowRank(n, encoder.get_submodule(n)) for n in names]
        count = sum(p.numel() for p in network.adapter_parameters().values())
        scale = f"{self.alpha:g}/√{self.r}" if self.use_rslora else f"{self.alpha:g}/{self.r}"
        network.report.notes.append(
            f"LoRA of rank {self.r}, scale {scale}, on {len(names)} layer{'s' * (len(names) > 1)}: {count:,} parameters; the "
            "pretrained weights are frozen"
        )

    def targets(self, network: Network) -> list[str]:
        """Names of the encoder's layers to adapt. Raises UserError if no layer can be adapted."""
        from transformers.pytorch_utils import Conv1D

        linear: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
        kinds = (*linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
        modules = dict(network.encoder.named_modules())
        if self.target_modules == "all-linear":
            found = [n for n, m in modules.items() if isinstance(m, linear)]
        else:
            layers = [n for n, m in modules.items() if isinstance(m, kinds)]
            found = list(dict.fromkeys(n for p in self.target_modules for n in searched(p, layers)))
        uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
        why_not = {n: why for n in found if (why := obstacle(network, modules, n, uses))}
        chosen = [n for n in modules if n in found and n not in why_not]
        if not chosen:
            seen = ", ".join(dict.fromkeys(type(m).__name__ for m in modules.values() if isinstance(m, kinds)))
            why = next(
                (f"{n}: {why}" for n, why in why_not.items()),
                f"its layers are {seen}" if seen else "it has no linear, convolutional or embedding layer",
            )
            raise UserError(
                f"{KEY}.target_modules",
                f"{self.target_modules} leaves no layer of {network.name} to adapt ({why})",
                "name other layers by regular expressions, such as [conv]",
            )
        for reason in dict.fromkeys(why_not.values()):
            left = [f"{n}.weight" for n, why in why_not.items() if why == reason]
            network.report.notes.append(f"LoRA leaves {layers_of(left)} out: {reason}")
        return chosen

    def save(self, network: Network, folder: str) -> None:
        """Writes the adapter alone, in the format of peft's `PeftModel.from_pretrained(encoder, folder)`. It has its own
        folder, because transformers would add an adapter beside config.json to weights that include it already.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        path = Path(folder) / FOLDER
        path.mkdir()
        state = get_peft_model_state_dict(network.encoder, adapter_name=NAME, save_embedding_layers=False)
        tensors = {f"base_model.model.{n}": v.detach().cpu().contiguous() for n, v in state.items()}
        save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
        network.encoder.peft_config[NAME].save_pretrained(str(path))  # type: ignore[union-attr, index]


class LowRank(Adapter):
    """One of peft's layers: Δ = s·B·A.

    Args:
        name: Name of the layer, below `encoder.`.
        layer: peft's layer, which holds the pretrained one.
    """

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__(f"encoder.{name}.weight")
        self.name, self.layer = name, layer

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"encoder.{self.name}.{n}": p for n, p in self.layer.named_parameters() if n.startswith("lora_")}

    def delta(self) -> Tensor:
        return whole(self.layer.get_delta_weight(NAME))  # type: ignore[operator]

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Scales B, and with it the product."""
        for name, parameter in self.layer.named_parameters():
            if name.startswith(ENDS):
                local(parameter).mul_(factor)

    @contextmanager
    def merged(self, encoder: nn.Module) -> Iterator[None]:
        above, _, leaf = self.name.rpartition(".")
        parent, base = encoder.get_submodule(above), self.layer.get_submodule("base_layer")
        weight = base.get_parameter("weight")
        kept = weight.data
        weight.data = self.effective(kept)
        setattr(parent, leaf, base)
        try:
            yield
        finally:
            weight.data = kept
            setattr(parent, leaf, self.layer)


def searched(pattern: str, names: list[str]) -> list[str]:
    """The names in which a regular expression is found."""
    try:
        found = [n for n in names if re.search(str(pattern), n)]
    except re.error as error:
        raise UserError(
            f"{KEY}.target_modules", f"'{pattern}' is not a regular expression: {error}", "correct it"
        ) from None
    if not found:
        ends = f"the first is {names[0]}, the last {names[-1]}" if names else "the encoder has no such layer"
        raise UserError(
            f"{KEY}.target_modules",
            f"'{pattern}' matches no layer that can be adapted ({ends})",
            "use other expressions",
        )
    return found


def obstacle(network: Network, modules: dict[str, nn.Module], name: str, uses: Counter[int]) -> str | None:
    """Why a layer of the encoder cannot be adapted; None if it can. `uses` counts the layers that hold each parameter."""
    layer = modules[name]
    if f"{name}.weight" in network.fresh:
        return "new layers are trained whole"
    above = name
    while "." in above:
        above = above.rpartition(".")[0]
        if isinstance(modules[above], READ_DIRECTLY):
            return f"a {type(modules[above]).__name__} reads their weights itself, and would ignore adapters"
    if getattr(layer, "groups", 1) > 1:
        return "a grouped convolution has no single product to merge"
    if uses[id(layer.weight)] > 1:
        return "another layer shares their weights"
    return None
