"""Loading and export for all transformers networks: load with a report, split off the last layer, export a genuine folder.

Only transformers' own code is run, unless `trust_remote_code` allows the code that comes with a model.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import getLogger
from typing import Any

import torch
from torch import nn

from sft_lightning.core import redaction
from sft_lightning.core.environment_errors import machine_fault
from sft_lightning.core.errors import UserError, nearest, plainly
from sft_lightning.core.structures import InputView
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import fresh_linear
from sft_lightning.networks.joint_head import plain_head
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.source_task import PROBLEMS
from sft_lightning.networks.tensors import tensor_names
from sft_lightning.networks.weights import OURS, Source, read_state_dict, resolve, tensors_alone

Config = str | dict[str, Any] | None
"""A transformers configuration: a folder or hub name, or `{'model_type': 'vit', 'hidden_size': 64, ...}`."""


def load_hf(
    auto_class: Any,
    pretrained: str | None,
    config: Config,
    network: Network,
    trust: bool = False,
    trim: Callable[[Any], None] | None = None,
    **kwargs: Any,
) -> Any:
    """The model of `pretrained`, or a random one of `config`, in evaluation mode and float32.

    Sets `network.pretrained`, `.report`, `.input_view` and `.fresh` (names as the model's own, so the model must
    become `network.encoder`, or the caller renames them). `trust` allows code that comes with the model to run; `trim`
    removes unused parts of the model, which then need not be filled; `kwargs` go to `from_pretrained`.
    """
    if pretrained is None:
        if config is None:
            raise UserError(
                "network.pretrained",
                f"{type(network).__name__} has nothing to build from",
                "set network.init_args.pretrained, or network.init_args.config to start from random weights",
            )
        made = from_config(auto_class, config, network, trust).eval()
        if trim is not None:
            trim(made)
        return made
    quieten()
    source = find(pretrained, network)
    network.pretrained, network.report.source = pretrained, pretrained
    network.input_view = InputView.of(source.ours.get("input"))
    place: str | None = source.hub or str(source.folder)
    if source.file is not None and source.file.suffix == ".gguf":
        kwargs["gguf_file"] = source.file.name
    elif source.file is not None:
        if config is None:
            raise UserError(
                "network.pretrained",
                f"{source.file} is a state dict alone",
                "give the folder with its config.json, or set network.init_args.config",
            )
        blank, notes = from_config(auto_class, config, network, trust), network.report.notes
        state = unprefixed(read_state_dict(source.file, notes), [set(blank.state_dict())], str(source.file), notes)
        place, kwargs["state_dict"] = None, state
        auto_class, kwargs["config"] = type(blank), blank.config
    elif config is not None:
        with user_errors("network.config", "", type(network).__name__):
            kwargs["config"] = make_config(config, trust)
    with user_errors("network.pretrained", pretrained, type(network).__name__), tensors_alone():
        model, info = auto_class.from_pretrained(
            place,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that our own error below can name the tensors
            **({} if place is None else {"trust_remote_code": trust}),
            **{"dtype": torch.float32, **kwargs},
        )
    if trim is not None:
        trim(model)
    own = list(model.state_dict())
    wrong, missing = sorted(info["mismatched_keys"]), set(info["missing_keys"]) & set(own)
    if wrong:
        name, theirs, ours = wrong[0]
        raise UserError(
            "network.pretrained",
            f"{pretrained}: config.json and the weights do not belong together: some tensors have another shape than the "
            f"network's ({len(wrong)}, the first {name} {list(theirs)} instead of {list(ours)})",
            "choose a folder whose config.json describes its weights",
        )
    if len(missing) * 2 > len(own):
        raise UserError(
            "network.pretrained",
            f"{pretrained} fills {len(own) - len(missing)} of the network's {len(own)} tensors: its weights belong to another "
            f"model than {type(model).__name__}",
            "choose other weights",
        )
    network.report.loaded = len(own) - len(missing)
    network.report.missing = [n for n in own if n in missing]
    network.report.unexpected = sorted(info["unexpected_keys"])
    network.fresh = {n for n in tensor_names(model) if n in missing}
    return model.eval()


def quieten() -> None:
    """Turns transformers' progress bars off in files and pipes."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def find(pretrained: str, network: Network) -> Source:
    """Resolves `pretrained`; one of our folders must be a transformers folder too."""
    source = resolve(pretrained)
    theirs = (source.ours.get("network") or "").rpartition(".")[2]
    if theirs and "model_type" not in source.config:
        raise UserError(
            "network.pretrained",
            f"{pretrained} holds a {theirs}, and the network is a {type(network).__name__}",
            f"choose other weights, or set network to {theirs}",
        )
    return source


def from_config(auto_class: Any, config: str | dict[str, Any], network: Network, trust: bool = False) -> Any:
    """A model with random weights."""
    with user_errors("network.config", "", type(network).__name__):
        made = make_config(config, trust)
        made.architectures = made.architectures or []  # auto classes choose by it if a type has several models
        return auto_class.from_config(made, trust_remote_code=trust)


def make_config(config: str | dict[str, Any], trust: bool = False) -> Any:
    """A transformers configuration from a folder, a hub's name or plain values."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if isinstance(config, str):
        return AutoConfig.from_pretrained(config, trust_remote_code=trust)
    values = dict(config)
    kind = str(values.pop("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise UserError(
            "network.config", f"model_type '{kind}' is not known to transformers{nearest(kind, CONFIG_MAPPING)}"
        )
    plain = AutoConfig.for_model(kind)
    for name in values:
        if not hasattr(plain, name):
            raise UserError("network.config", f"{kind} has no setting '{name}'{nearest(name, plain.to_dict())}")
    return AutoConfig.for_model(kind, **values)


# ---- the last layer ----


def last_linear(model: Any, num_labels: int | None = None) -> str:
    """Name of the layer that gives the model's outputs: its last nn.Linear of `num_labels` (default the config's)."""
    wanted = int(num_labels or model.config.num_labels)
    found: list[str] = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == wanted]
    if not found or type(model).__name__.endswith("WithTeacher"):
        how_many = "two output layers" if found else "no linear output layer"
        raise UserError(
            "network", f"{type(model).__name__} has {how_many}, so it cannot get a new head", "choose another model"
        )
    return found[-1]


def replace_last_linear(model: Any, num_labels: int | None = None) -> tuple[str, nn.Linear]:
    """Replaces the output layer by the identity, so that the model's logits are features; returns (name, old layer).

    `num_labels` is the old layer's number of outputs; default the model configuration's.
    """
    name = last_linear(model, num_labels)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    set_module(model, name, nn.Identity())
    return name, old


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces the submodule `name` by `module`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def split_head(network: Network, model: Any, keep_source_head: bool, num_labels: int | None = None) -> str:
    """Gives the network its new head in place of the model's output layer; the old one is kept if it was pretrained.

    `num_labels` is the old layer's number of outputs; default the model configuration's. Returns the old layer's name,
    which `hf_export` needs.
    """
    name, old = replace_last_linear(model, num_labels)
    filled = not any(n.startswith(f"{name}.") for n in network.fresh)
    network.fresh = {n for n in network.fresh if not n.startswith(f"{name}.")}
    network.report.missing = [n for n in network.report.missing if not n.startswith(f"{name}.")]
    if network.pretrained is not None and keep_source_head and filled:
        network.keep_source_head(old, labels_of(model), getattr(model.config, "problem_type", None))
    network.head = fresh_linear(old.in_features, network.task.num_outputs, bias=old.bias is not None)
    return name


def labels_of(model: Any) -> list[str]:
    """The model's label names in the order of its outputs."""
    names: dict[Any, str] = model.config.id2label or {}
    return [names[i] for i in sorted(names, key=int)]


# ---- export ----


def hf_export(
    network: Network, model: Any, folder: str, head_name: str | None = None, head: nn.Module | None = None
) -> None:
    """Writes a genuine transformers folder: the new head in the old one's place, the task's labels, and our own entries
    under `sft_lightning` in config.json. With `head_name` None it writes the model unchanged. `head` is the new head in the
    form that the model has it; default the network's own.
    """
    cls, task, config = type(network), network.task, model.config
    kept, stood = dict(vars(config)), None if head_name is None else model.get_submodule(head_name)
    try:
        if head_name is not None:
            set_module(model, head_name, head or plain_head(network.head))
            labels = task.labels or [f"LABEL_{i}" for i in range(task.num_outputs)]
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: i for i, label in enumerate(labels)}
            config.problem_type = next((theirs for theirs, ours in PROBLEMS.items() if ours == task.name), None)
        about = {
            "network": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": redaction.without(network.export_config()),
            "task": replace(task, known=0).to_dict(),  # in an export, all labels are alike
            "input": network.input_view.to_dict(),
        }
        setattr(config, OURS, about)
        with quiet(), network.merged():
            model.save_pretrained(folder)
        network.save_beside(folder)
    finally:
        vars(config).clear()
        vars(config).update(kept)
        if head_name is not None:
            assert stood is not None
            set_module(model, head_name, stood)


# ---- transformers' exceptions as one-line errors ----


@contextmanager
def quiet() -> Iterator[None]:
    """Silences tables and progress bars, because the network's report lists what was loaded."""
    from transformers.utils import logging

    hub = getLogger("huggingface_hub")
    level, bar, hub_level = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.level
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def user_errors(key: str, subject: str, network: str) -> Iterator[None]:
    """Turns what transformers raises for a wrong name, folder, file or setting into a UserError.

    Args:
        key: The UserError's key.
        subject: The key's value, a hub name or a folder, which begins the problem; empty for none.
        network: Name of the network's class, for the message.
    """
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        found = explain(error, network)
        if found is None:
            raise
        problem, fix = found
        raise UserError(key, f"{subject}: {problem}" if subject else problem, fix) from None


def explain(error: Exception, network: str) -> tuple[str, str] | None:
    """Problem and fix for an exception of transformers or its libraries; None if it looks like a bug."""
    said, kind = str(error), type(error).__name__
    chain = f"{kind} {type(error.__cause__).__name__} {said}"
    if "trust_remote_code" in said:
        return "needs Python code that comes with the model, and this code was not run", (
            "choose a model that transformers has, or, once you have read that code, set "
            "network.init_args.trust_remote_code true"
        )
    if re.search("Unrecognized configuration class", said):
        config = re.search(r"configuration class <class '[\w.]*?(\w+)'>", said)
        return (
            f"a model with {config[1] if config else 'this configuration'} does not work with {network}",
            "choose another model or network",
        )
    if "weights_only" in said.lower() or "Unsupported global" in said:
        return "is damaged, or holds pickled code, which is never run", "save the weights as model.safetensors"
    if "Safetensor" in chain or "PytorchStreamReader" in said or "header too" in said.lower() or kind == "EOFError":
        return (
            f"the weights are damaged or truncated ({said.splitlines()[0] if said else kind})",
            "download or copy them again",
        )
    if "no file named" in said:
        return "the folder has no weights", "add model.safetensors to it"
    if re.search("Unrecognized model|model type .* does not recognize|model_type", said):
        return "this version of transformers does not know the model type in config.json", "update transformers"
    if kind in ("GatedRepoError", "RepositoryNotFoundError") or re.search(
        "gated repo|not a valid model identifier", said
    ):
        return "no such folder here and no such public model on the hub", "set HF_TOKEN for a private model"
    if re.search("connect|offline|resolve|cached|LocalEntryNotFound|Max retries", chain, re.IGNORECASE):
        return "no such folder here, and the hub cannot be reached to look there", "check the path or the connection"
    if kind.startswith("StrictDataclass"):
        return (
            f"config.json: {plainly(' '.join(said.split()).rpartition('TypeError: ')[2].partition(' Errors:')[0])}",
            "",
        )
    if isinstance(error, MemoryError) or machine_fault(error) is not None:
        return None
    if isinstance(error, (AttributeError, TypeError, IndexError)) or "NoneType" in said or type(error) is Exception:
        first = said.strip().splitlines()[0] if said.strip() else kind
        return f"a file in the folder, or a setting, is not as transformers expects it ({plainly(first)})", ""
    if isinstance(
        error, (ImportError, ValueError, OSError, LookupError, RuntimeError, ArithmeticError, AssertionError)
    ):
        return (said.strip().splitlines()[0] if said.strip() else kind), ""
    return None
