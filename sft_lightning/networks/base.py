"""The one interface every network has: encoder, head, kept source head, and one pass through them."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.core.load_report import LoadReport
from sft_lightning.core.registry import Registry
from sft_lightning.core.structures import Batch, InputSpec, InputView, Output, TaskInfo, Texts
from sft_lightning.core.wording import listed
from sft_lightning.networks.adapters import Adapter
from sft_lightning.networks.image_fit import check_shape_fits, view_notes
from sft_lightning.networks.joint_head import JointHead, plain_head
from sft_lightning.networks.source_head_file import write_source_head
from sft_lightning.networks.source_task import source_task_name
from sft_lightning.networks.tensors import bottom_up, group_layers, layers_of, tensor_names
from sft_lightning.networks.weights import write_folder
from sft_lightning.networks.windows import check_sizes, exceeds, in_windows

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


NETWORKS: Registry["Network"] = Registry("network")


class Network(nn.Module):
    """f = head ∘ encoder, with the pretrained output layer kept beside the new one.

    A sub-class builds `self.encoder` (inputs → features), `self.head` (features → logits) and, where the pretrained
    weights have one and `keep_source_head` is set, `self.source_head` with `self.source_labels`. Its constructor takes
    `task` first (given by us), then plain values: those are the YAML keys. `transforms`, which change the network once it
    is built and pretrained, it hands on.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression", "multi_label")
    """Names of the tasks the network can be used for."""
    library: ClassVar[str] = ""
    """The library in whose own format the network can be exported: 'transformers' or 'timm'; empty for none"""
    works_in_parts: ClassVar[bool] = True
    """Whether it can be tuned with trainer.strategy fsdp2"""
    shares_outputs: bool = False
    """True where logits live in the pretrained output space, as in language models: the head is pretrained too."""

    encoder: nn.Module
    head: nn.Module
    source_head: nn.Module | None

    def __init_subclass__(cls, base: bool = False, **kwargs: Any) -> None:
        """Registers the class, unless it is a `base` of others."""
        super().__init_subclass__(**kwargs)
        if not base:
            NETWORKS.add_class(cls)

    def __init__(self, task: TaskInfo, transforms: Sequence[Any] | None = None) -> None:
        super().__init__()
        if task.name not in self.tasks:
            raise UserError(
                "network",
                f"{type(self).__name__} is for {listed(self.tasks)}, the data's task is {task.name}",
                "choose another network or other data",
            )
        self.task = task
        self.name = type(self).__name__  # which the class of a network that is sharded does not have
        self.source_head = None
        self.pretrained: str | None = None
        self.source_labels: list[str] = []
        self.source_task: TaskInfo | None = None  # what the kept source head says; None without one
        self.input_view = InputView()
        """How the network was fed, before `settle` in pretraining; it travels with exports"""
        self.fresh: set[str] = set()  # encoder tensors that `pretrained` did not fill, by name below `encoder.`
        self.transforms: list[Any] = list(transforms or [])  # specifications, in the order in which they are applied
        self.applied: list[Any] = []  # the transforms themselves, once applied
        self.adapters: list[Adapter] = []  # what transforms add to pretrained weights
        self._layers: list[tuple[str, list[str]]] = []  # as before transforms, once those are applied
        self.renamed: dict[str, str] = {}  # parameters that transforms moved: name → name in the pretrained network
        self.report = LoadReport()
        self._watched, self._watching = False, False  # whether the inputs of the encoder's new layers can be, are noted
        self._below_new: Tensor | None = None

    @property
    @abstractmethod
    def input_spec(self) -> InputSpec:
        """How samples must be prepared."""

    def wanted_input(self) -> InputSpec:
        """`input_spec`, signed with the network's name: what `SFTDataModule.settle` takes."""
        return replace(self.input_spec, network=self.name)

    def settle(self, view: InputView) -> None:
        """Takes over how the data will feed the network.

        Raises UserError where the network cannot take samples of this shape.
        """
        if view.ends is None:
            view = replace(view, ends=self.input_view.ends)
        if view == self.input_view:
            return
        own = getattr(self, "own_spec", self.input_spec).view
        self.input_view = view
        self.report.notes += view_notes(self, own)
        check_shape_fits(self, view)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """Features of `x`: `[B, D]`, or `[B, T, D]` for language models."""
        features: Tensor = self.encoder(x["image"])
        return features

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """One encoder pass, then the heads: on the rows (or positions) of features that `select` marks, or on all. Images that
        are larger than the windows that the data has settled on are seen in windows.
        """
        window = self.input_view.window
        if window is None:
            return self.one_pass(x, select)
        check_sizes(self.input_view.size, self.parameters())
        return in_windows(self.one_pass, x, select, window) if exceeds(x, window) else self.one_pass(x, select)

    def one_pass(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """`forward` on all of `x` at once."""
        features, below = self._encode_watching(x) if self.fresh else (self.encode(x), None)
        if select is not None:
            features = features[select]
            below = None if below is None else below[select]
        logits: Tensor = self.head(features)
        if isinstance(self.head, JointHead):  # its old rows are the source head that is tuned, and exported
            source: Tensor | None = logits[..., : self.head.old.out_features]
        else:
            source = self.source_head(features) if self.source_head is not None else None
        return Output(logits, features, source, below)

    def generate(self, prompt: dict[str, Tensor]) -> list[str]:
        """One text for each of the B rows of `prompt`, for networks that generate. Draws no random number."""
        raise NotImplementedError(f"{self.name} does not generate texts")

    def generate_timed(self, prompt: dict[str, Tensor]) -> tuple[list[str], list[list[dict[str, Any]]] | None]:
        """The texts of `generate`, and each one's words with their times; None for networks that do not know these."""
        return self.generate(prompt), None

    def answered(self, output: Output, batch: Batch, times: bool = False) -> Output:
        """Adds generated texts to the output of a batch that asks for them; with `times`, when each word is spoken."""
        if "prompt" not in batch:
            return output
        if not times:
            return output._replace(generated=Texts(self.generate(batch["prompt"])))
        texts, words = self.generate_timed(batch["prompt"])
        return output._replace(generated=Texts(texts), words=None if words is None else Texts(words))

    # ---- tensors told apart ----

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """All of the encoder's, by full name."""
        return {f"encoder.{n}": p for n, p in self.encoder.named_parameters()}

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """w_S: what `pretrained` filled, by full name (source head apart). Empty when from scratch."""
        if self.pretrained is None:
            return {}
        apart = {f"encoder.{n}" for n in self.fresh} | self.adapter_parameters().keys()
        shared = {n: p for n, p in self.encoder_parameters().items() if n not in apart}
        if self.shares_outputs:
            seen = {id(p) for p in shared.values()}
            shared |= {f"head.{n}": p for n, p in self.head.named_parameters() if id(p) not in seen}
        return shared | self.joint_parameters()

    @property
    def joint(self) -> bool:
        """Whether the head has the pretrained output layer's rows for old labels, beside new ones."""
        return isinstance(self.head, JointHead)

    def joint_parameters(self) -> dict[str, nn.Parameter]:
        """The pretrained part of a joint head, by full name; empty for other heads."""
        head = self.head
        return {f"head.old.{n}": p for n, p in head.old.named_parameters()} if isinstance(head, JointHead) else {}

    def plain_head(self) -> nn.Module:
        """The head as exports hold it: a joint one as one layer."""
        return plain_head(self.head)

    def shared_weights(self) -> dict[str, Tensor]:
        """w_S as the network computes with it, by the pretrained network's names, without gradient: w + Δ under an adapter.

        Under fsdp2 all ranks must call this.
        """
        weights = {self.renamed.get(n, n): p.detach() for n, p in self.shared_parameters().items()}
        return weights | {a.weight: a.effective(weights[a.weight]) for a in self.adapters}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """What transforms put beside pretrained weights, by full name; empty without any."""
        return {n: p for adapter in self.adapters for n, p in adapter.parameters().items()}

    def new_parameters(self) -> dict[str, nn.Parameter]:
        """w_new: what `pretrained` did not fill, by full name: the replaced head, and new layers inside the encoder."""
        known, source = self.shared_parameters() | self.adapter_parameters(), "source_head."
        return {n: p for n, p in self.named_parameters() if n not in known and not n.startswith(source)}

    def parameter_sets(self) -> dict[str, dict[str, nn.Parameter]]:
        """Every parameter by full name, in one set of these: shared, new, adapter, source_head."""
        source = {n: p for n, p in self.named_parameters() if n.startswith("source_head.")}
        return {
            "shared": self.shared_parameters(),
            "new": self.new_parameters(),
            "adapter": self.adapter_parameters(),
            "source_head": source,
        }

    def added_parameters(self) -> dict[str, nn.Parameter]:
        """What is new on top of what is tuned, by full name: `new_parameters()`; the head alone where nothing is pretrained."""
        if self.pretrained is not None:
            return self.new_parameters()
        return {f"head.{n}": p for n, p in self.head.named_parameters()}

    @property
    def pretrained_features(self) -> bool:
        """Whether the pretrained weights alone determine `features`: `pretrained` filled every tensor of the encoder."""
        return self.pretrained is not None and not self.fresh

    @property
    def pretrained_below_new(self) -> bool:
        """Whether features can be compared with the teacher's: `features` themselves, or else the input of the first new
        layer, which needs all pretrained layers below it.
        """
        if self.pretrained is None or not self.fresh:
            return self.pretrained is not None
        new = [n in self.fresh for n in bottom_up(self.encoder, tensor_names(self.encoder))]
        return new == sorted(new) and not new[0]

    def watch_new_layers(self) -> None:
        """Prepares to note what enters the first of the encoder's new layers, once; without any, nothing happens."""
        if self._watched or not self.fresh or self.pretrained is None:
            return
        self._watched = True
        below = "features are compared below it" if self.pretrained_below_new else "features cannot be compared"
        self.report.notes.append(
            f"new inside the encoder, and trained as the head is: {layers_of(self.fresh)}; {below}"
        )
        if self.pretrained_below_new:
            for name in dict.fromkeys(n.rpartition(".")[0] for n in tensor_names(self.encoder) if n in self.fresh):
                self.encoder.get_submodule(name).register_forward_pre_hook(self._note_input)

    def _note_input(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._watching and self._below_new is None and inputs and isinstance(inputs[0], Tensor):
            self._below_new = inputs[0]

    def _encode_watching(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features, and what enters the first new layer, with as many dimensions; `[B, 0]` where there is no such vector. A map
        may have another height and width than the features.
        """
        self.watch_new_layers()
        self._watching = True
        features = self.encode(x)
        below, self._below_new, self._watching = self._below_new, None, False
        if below is not None and below.ndim == features.ndim == 4:  # the channels of maps are last in features alone
            return features, below.permute(0, 2, 3, 1)
        if below is None or below.shape[:-1] != features.shape[:-1]:
            below = features.new_empty(*features.shape[:-1], 0)
        return features, below

    def no_decay_parameters(self) -> set[str]:
        """Names of biases, norms' parameters and other tensors of fewer than two dimensions."""
        names = {n for n, p in self.named_parameters() if p.ndim < 2}
        for prefix, module in self.named_modules():
            if isinstance(module, NORMS) or "norm" in type(module).__name__.lower():
                names |= {f"{prefix}.{n}" for n, _ in module.named_parameters(recurse=False)}
        return names

    def layers(self) -> list[tuple[str, list[str]]]:
        """The encoder bottom to top: (layer, full names of its parameters). Transforms change neither number nor names of
        layers: an adapter belongs to the layer of the weight beside which it stands.
        """
        return self._layers or self.own_layers()

    def keep_layers(self, before: list[tuple[str, list[str]]]) -> None:
        """Takes the layers as they were before a transform, with the parameters that it moved and put beside others."""
        now = {self.renamed.get(n, n): n for n in self.encoder_parameters()}
        beside = {adapter.weight: list(adapter.parameters()) for adapter in self.adapters}
        self._layers = [(layer, [m for n in names for m in (now[n], *beside.get(n, ()))]) for layer, names in before]

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The layers without transforms, as the architecture has them."""
        return group_layers([f"encoder.{n}" for n in bottom_up(self.encoder, dict(self.encoder.named_parameters()))])

    # ---- keeping and passing on ----

    def keep_source_head(self, head: nn.Module, labels: list[str], task: str | None = None) -> None:
        """Keeps the pretrained output layer, frozen and in evaluation mode. Labels that only count say nothing.

        `task` is the name of what it was trained for, where that is known; else one output is a value, and several are
        classes. Where the encoder has new layers the head is not kept: it would speak of random features.
        """
        if self.fresh:
            self.report.notes.append(
                f"the pretrained output layer is not kept: the encoder below it has new layers ({layers_of(self.fresh)})"
            )
            return
        self.source_head = head.requires_grad_(False).eval()
        self.source_labels = [] if all(re.fullmatch(r"LABEL_\d+", n) for n in labels) else labels
        outputs = int(next(iter(head.parameters())).shape[0])
        self.source_task = TaskInfo(source_task_name(task, outputs), outputs, self.source_labels)

    def keep_source_linear(self, state: Mapping[str, Tensor], labels: list[str], task: str | None = None) -> None:
        """Keeps the linear layer whose `head.weight` and `head.bias` stand in a state dict with our names, if any."""
        if "head.weight" not in state:
            return
        weight, bias = state["head.weight"], state.get("head.bias")
        old = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        old.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.keep_source_head(old, labels, task)

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        if self.source_head is not None:
            self.source_head.eval()
        return self

    def answering_source_head(self) -> nn.Module | None:
        """The layer that gives `source_logits`: the old rows of a joint head, which are tuned, or the kept source head."""
        return self.head.old if isinstance(self.head, JointHead) and self.source_head is not None else self.source_head

    def export_config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this network without its `pretrained`, as plain values."""
        return {}

    @contextmanager
    def merged(self) -> Iterator[None]:
        """While open, the network is a plain one, of the pretrained architecture: adapters are in the weights beside which they
        stood, and a joint head is one layer. Afterwards it is as before, to the bit.
        """
        with ExitStack() as undo:
            for adapter in self.adapters:
                undo.enter_context(adapter.merged(self.encoder))
            undo.callback(setattr, self, "head", self.head)
            self.head = self.plain_head()
            yield

    def about(self) -> dict[str, Any]:
        """What our own entry of an export's config.json says: class, arguments, task, and how inputs are prepared."""
        cls = type(self)
        return {
            "network": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": redaction.without(self.export_config()),
            "task": replace(self.task, known=0).to_dict(),  # in an export, all labels are alike
            "input": self.input_view.to_dict(),
        }

    def save_pretrained(self, folder: str) -> None:
        """Writes `config.json` and `model.safetensors` (encoder and new head), and the kept source head in files of its own."""
        with self.merged():
            state = {n: v.detach().cpu().contiguous() for n, v in self.state_dict().items() if isinstance(v, Tensor)}
        write_folder({n: v for n, v in state.items() if not n.startswith("source_head.")}, self.about(), folder)
        self.save_beside(folder)

    def save_beside(self, folder: str) -> None:
        """Writes what an export holds beside the network: the kept source head, and what transforms keep of themselves."""
        head = self.answering_source_head()
        if isinstance(head, nn.Linear) and self.source_task is not None:
            write_source_head(head, self.source_task, self.source_labels, folder)
        for transform in self.applied:
            transform.save(self, folder)
