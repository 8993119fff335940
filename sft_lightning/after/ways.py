"""Ways between the pretrained weights w⁰ and the tuned ones w: how much of each tensor's change Δ = w − w⁰ a point keeps."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.evaluation.drift import is_statistic
from sft_lightning.networks.base import Network

Factors = Mapping[str, float]
"""Name of a parameter: share of its change that is kept"""


def pretrained_parameters(network: Network) -> dict[str, nn.Parameter]:
    """What `pretrained` filled, the kept source head included, which a variant may tune too; by full name."""
    sets = network.parameter_sets()
    return sets["shared"] | sets["source_head"]


def wise_ft(network: Network, alpha: float) -> Factors:
    """Keeps the share α of every change. M. Wortsman et al., Robust fine-tuning of zero-shot models (2021)."""
    return dict.fromkeys([*pretrained_parameters(network), *network.adapter_parameters()], alpha)


def lines(network: Network, alpha: float) -> Factors:
    """Keeps α + (1 − α)(l − 1)/(L − 1) of the change of block l of L, bottom to top, and α outside of the blocks.

    K. Wang et al., LiNeS: Post-training layer scaling (2024), for a single task: the top block keeps all of its change. Blocks
    are the numbered layers of `Network.layers()`. Raises UserError if there are fewer than two.
    """
    blocks = [names for _, names in blocks_of(network)]
    if len(blocks) < 2:
        raise UserError(
            "--how", f"lines needs at least 2 numbered blocks, {network.name} has {len(blocks)}", "use wise-ft"
        )
    factors = dict(wise_ft(network, alpha))
    for number, names in enumerate(blocks):
        share = alpha + (1 - alpha) * number / (len(blocks) - 1)
        factors |= {name: share for name in names if name in factors}
    return factors


def blocks_of(network: Network) -> list[tuple[str, list[str]]]:
    """The blocks of `lines`, bottom to top: the numbered layers, and the names of their parameters."""
    return [(layer, names) for layer, names in network.layers() if layer.rpartition(".")[2].isdigit()]


def said_blocks(network: Network) -> str:
    """The blocks in their order as one phrase, as some networks number parts that do not follow one another in depth."""
    runs: list[tuple[str, list[str]]] = []
    for layer, _ in blocks_of(network):
        stem, _, number = layer.rpartition(".")
        if not runs or runs[-1][0] != stem:
            runs.append((stem, []))
        runs[-1][1].append(number)
    spans = [f"{stem}.{n[0]}{f' to {n[-1]}' if len(n) > 1 else ''}" for stem, n in runs]
    return f"{len(blocks_of(network))} from the bottom: {', '.join(spans)}"


WAYS: dict[str, Callable[[Network, float], Factors]] = {"wise-ft": wise_ft, "lines": lines}
"""Ways by the name that the command takes"""


class Ends:
    """Holds both ends of a path, and puts a tuned network at any point between them.

    Only what `pretrained` filled moves; with adapters the effective weights w⁰ + Δ do. The new head and other new layers stay
    as they are.

    Args:
        network: The tuned network.
        pretrained: The network from which it started, with the names that it had before adapters were put in.
    """

    def __init__(self, network: Network, pretrained: Network) -> None:
        self.network = network
        names = {n: network.renamed.get(n, n) for n in pretrained_parameters(network)}
        origin = {**dict(pretrained.named_parameters()), **dict(pretrained.named_buffers())}
        self.tuned = {n: p.detach().clone() for n, p in pretrained_parameters(network).items()}
        self.start = {n: origin[old].detach().clone() for n, old in names.items()}
        self.added = {n: p.detach().clone() for n, p in network.adapter_parameters().items()}
        buffers = {n: b for n, b in network.named_buffers() if n in origin and is_statistic(n)}
        self.statistics = {n: (origin[n].detach().clone(), b.detach().clone()) for n, b in buffers.items()}
        self.new = {f"encoder.{n}" for n in network.fresh}

    @property
    def moved(self) -> bool:
        """Whether tuning changed any pretrained weight."""
        changed = (not torch.equal(self.start[n].to(w.device), w) for n, w in self.tuned.items())
        return any(changed) or any(bool(a.delta().any()) for a in self.network.adapters)

    def moved_norms(self) -> dict[str, nn.Module]:
        """Normalisation layers whose running statistics tuning changed, by full name."""
        names = {n.rpartition(".")[0] for n, (a, b) in self.statistics.items() if not torch.equal(a.to(b.device), b)}
        return {name: self.network.get_submodule(name) for name in sorted(names)}

    @torch.no_grad()
    def go(self, factors: Factors, statistics: float) -> None:
        """Puts the network where each tensor keeps its factor of the change.

        Running statistics keep the factor of their layer's parameters, or `statistics` without any; those of new layers are
        the tuned ones. A factor of 0 gives the pretrained tensor and 1 the tuned one, both to the bit.
        """
        for name, parameter in pretrained_parameters(self.network).items():
            parameter.copy_(between(self.start[name], self.tuned[name], factors[name]))
        for adapter in self.network.adapters:
            held = adapter.parameters()
            for name, parameter in held.items():
                parameter.copy_(self.added[name])
            adapter.scale(factors[next(iter(held))])
        for name, buffer in self.network.named_buffers():
            if name in self.statistics:
                layer = f"{name.rpartition('.')[0]}."
                factor = next((f for n, f in factors.items() if n.startswith(layer)), statistics)
                buffer.copy_(between(*self.statistics[name], 1.0 if name in self.new else factor))


def between(start: Tensor, end: Tensor, factor: float) -> Tensor:
    """Start + factor·(end − start), computed in at least single precision; exactly an end for a factor of 0 or 1."""
    start = start.to(end.device)
    if factor in (0.0, 1.0):
        return end if factor else start
    wide = torch.promote_types(end.dtype, torch.float32)
    return (start.to(wide) + factor * (end.to(wide) - start.to(wide))).to(end.dtype)
