"""Configurations that were right once: mutated as trees, as text, and from the command line."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
MLP: dict[str, Any] = {
    "class_path": "MLP",
    "init_args": {"in_features": 64, "hidden": [128, 64], "pretrained": "builtin:digits-0-4"},
}
DIGITS: dict[str, Any] = {
    "class_path": "Digits",
    "init_args": {"classes": [5, 6, 7, 8, 9], "shots_per_class": 4, "val_fraction": 0.25, "batch_size": 20},
}
SOURCE: dict[str, Any] = {
    "class_path": "Digits",
    "init_args": {"classes": [0, 1, 2, 3, 4], "val_fraction": 0.25, "batch_size": 256},
}
TRAINER: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "check_val_every_n_epoch": 1}
TEXTS: dict[str, Any] = {
    "class_path": "TextTable",
    "init_args": {"train": "rows.csv", "val_fraction": 0.3, "batch_size": 8, "max_length": 8},
}


def on_digits(variant: str, **arguments: Any) -> dict[str, Any]:
    """As in experiments/digits, with few samples and one epoch."""
    return {
        "seed_everything": 0,
        "model": {"class_path": variant, "init_args": {"lr": 0.001, **arguments}},
        "network": MLP,
        "data": DIGITS,
        "retention": SOURCE,
        "trainer": TRAINER,
        "test_after_fit": True,
    }


BASES: dict[str, dict[str, Any]] = {
    "distill": on_digits("DistillSFT", anchor_weight=0.1, distance="kl", temperature=2.0),
    "l2sp": on_digits("L2SPSFT", alpha=0.01, beta=0.0, freeze={"bottom_layers": 1}),
    "plain": on_digits("PlainSFT", lr_schedule="cosine", warmup=0.1, optimizer="SGD", optimizer_args={"momentum": 0.9}),
    "text": {
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.01, "ema_decay": 0.9, "label_smoothing": 0.1}},
        "network": {"class_path": "LSTM", "init_args": {"hidden": 8, "embedding_dim": 8, "max_length": 16}},
        "data": TEXTS,
        "trainer": {**TRAINER, "callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}]},
        "select_by": "val/loss",
        "save_every_n_steps": 1,
    },
}


def write_rows(folder: Path) -> None:
    """What the text configuration trains on."""
    texts = [" ".join(WORDS[i % 7 :: 1 + i % 3]) + f" {WORDS[i % 3]}" for i in range(30)]
    (folder / "rows.csv").write_text(
        "\n".join(["text,label", *(f"{t},{'good' if i % 2 else 'bad'}" for i, t in enumerate(texts))]) + "\n"
    )


# ---- values ----

# What would be a valid run without an end is never drawn: `max_epochs`, `max_steps` and `devices` have their own small
# values below, `trainer` is never dropped or replaced by an empty mapping (Lightning's own end is 1,000 epochs). Sizes
# may be huge: the process may ask for 3 GiB (see runner), and beyond it the library must fail in one line.
BIG = [10**4, 10**9, 10**30, 2**63, -(10**30)]
NUMBERS = [0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 1e-9, 1e300, -1e300, 1e-300, float("nan"), float("inf"), float("-inf")]
STRINGS = [
    *("", " ", "x", "null", "true", "1e3", "0x10", "nan", ".", "..", "/", "~", "a/b", "nowhere/at/all", "/dev/null"),
    *("nowhere.yaml", "nowhere.csv", "nowhere.safetensors", "builtin:nowhere", "package:nowhere/x", "rows.csv"),
    *(
        "é",
        "日本語",
        "🙂",
        "a\x00b",
        "\x1b[31mred",
        "a\nb",
        "\t",
        "\ud800",
        "a" * 300,
        "a/" * 900,
        "{}",
        "[]",
        "(",
        "*",
        "%s",
    ),
    *("!!python/object/apply:os.system", "&a", "*a", "2020-01-01", "10:00:00", "1_000", "yes", "on", "val/loss"),
]
CLASSES = [
    *("PlainSFT", "DistillSFT", "L2SPSFT", "SFTModule", "MLP", "LeNet", "LSTM", "Network", "Digits", "TextTable"),
    *(
        "ImageFolder",
        "Instructions",
        "SFTDataModule",
        "EarlyStopping",
        "torch.nn.Linear",
        "os.system",
        "nowhere.My",
        "os",
    ),
    *("Callback", "DigitsX", "sft_lightning", "sft_lightning.networks.MLP", "ModelSummary", "lightning.Trainer"),
]
scalars: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False]),
    st.sampled_from(NUMBERS),
    st.sampled_from(BIG),
    st.sampled_from(STRINGS),
    st.sampled_from(CLASSES),
    st.integers(-5, 50),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=6),
)
values: st.SearchStrategy[Any] = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(
        st.one_of(st.text(max_size=6), st.sampled_from(["class_path", "init_args", "x"])), scalars, max_size=3
    ),
    st.builds(lambda c: {"class_path": c}, st.sampled_from(CLASSES)),
    st.builds(
        lambda c, n, v: {"class_path": c, "init_args": {n: v}}, st.sampled_from(CLASSES), st.text(max_size=6), scalars
    ),
)
BOUNDED: dict[str, list[Any]] = {
    "max_epochs": [0, 1, 2, "x", -2, True, 1.5, [], float("nan")],  # null is 1,000
    "max_steps": [0, 1, 3, None, "x", -2, 1.5],
    "devices": [0, -1, 1, "auto", "0", "1", "abc", [], [0], [0, 1], None, 1.5, "", "1,"],
    "num_nodes": [0, -1, 1, None, "x"],
    "num_workers": [0, -1, 1, None, "x", 10**9, 1.5],  # two processes or more only take longer
    "max_time": ["x", "00:00:00:00", {"seconds": 0}, {"x": 1}, {}, 3],
}
TRAINING: dict[str, list[Any]] = {
    "precision": ["16-mixed", "bf16-mixed", "16-true", "64-true", "x", 16, 8, None, ""],
    "accelerator": ["gpu", "tpu", "x", None, "auto", "", 3],
    "strategy": ["nonsense", "ddp", None, "fsdp", "deepspeed", "", 3, "single_device"],
    "limit_train_batches": [0, 1, 0.5, -1, 1.5, float("nan"), 0.001, None],
    "limit_val_batches": [0, 1, 0.5, -1, 1.5, float("nan"), 0.001, None],
    "limit_test_batches": [0, 1, -1, 0.001],
    "overfit_batches": [0, 1, 0.5, -1, 1.5],
    "val_check_interval": [1000, 0, -1, 0.5, 1.5, float("nan"), 1, "x"],
    "check_val_every_n_epoch": [0, -1, None, 2, "x"],
    "gradient_clip_val": [-1, 0, 1, float("nan"), float("inf"), "x"],
    "gradient_clip_algorithm": ["value", "norm", "x"],
    "accumulate_grad_batches": [0, -1, 2, 3, 20, "x", 10**9],
    "num_sanity_val_steps": [-1, 2, -5, "x"],
    "log_every_n_steps": [0, -1, 1, None],
    "fast_dev_run": [True, 1, 2, 0, -1, "x"],
    "logger": [True, False, None, "x", [], {}, {"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}}],
    "callbacks": [[{}], {}, None, [], 3, "x", [None], [{"class_path": "nowhere.X"}], [{"class_path": "MLP"}]],
    "plugins": [None, [], "x", [3], {}, {"class_path": "nowhere.X"}, {"class_path": "LightningEnvironment"}],
    "deterministic": [True, "warn", "x"],
    "profiler": ["simple", "x", {}],
    "detect_anomaly": [True],
    "barebones": [True],
    "sync_batchnorm": [True],
    "inference_mode": [False],
    "reload_dataloaders_every_n_epochs": [1, -1],
    "default_root_dir": ["x", "/dev/null/x", 3],
    "min_epochs": [-1, 1, "x"],
    "enable_checkpointing": [False],
    "use_distributed_sampler": [True],
}
OPTIONS: dict[str, list[Any]] = {
    "run_id": ["", "../x", "a" * 65, 3, "é", ".", "a b", True, "fine"],
    "experiment": ["", "../x", 3, "a/b", ".x", "fine"],
    "runs_dir": ["", "/dev/null/x", "a\x00b", "below/here", 3, "rows.csv"],
    "select_by": ["", "nonsense", "val/loss", "drift/kl", "train/loss", 3],
    "drift_rows": [0, -1, 1, 10**30, 1.5, "x", None, True],
    "wandb_tags": [3, "x", [3], {}, ["a"]],
    "wandb_fallback": ["offline", "x", True],
    "save_every_n_steps": [0, -1, 1, 1.5, 10**30, "x"],
    "save_every_minutes": [0, -1, float("nan"), float("inf"), 1e-9, 1e300],
    "seed_everything": [-1, 10**30, True, False, "x", None, 1.5, 2**32],
    "ckpt_path": ["", ".", "last", "best", "nowhere.ckpt", "rows.csv", 3, "s3://x/y", "nope://x", "a\x00b"],
    "weights_only": [False, None, "x"],
    "test_after_fit": [None, "x", False],
    "quiet": [None, "x", True],
    "return_predictions": [True],
}
UNTOUCHED = {"trainer"}  # see BOUNDED


@dataclass(frozen=True)
class Case:
    """A config file's bytes, what is typed behind it, and the keys that were touched."""

    content: bytes
    flags: list[str]
    touched: list[str]

    def __repr__(self) -> str:
        return f"Case({self.content!r}, {self.flags!r}, {self.touched!r})"


def paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values of a tree are."""
    found = [at] if at else []
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found += paths(value, (*at, key))
    return found


def get(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def value_for(draw: st.DrawFn, path: tuple[Any, ...]) -> Any:
    """What may stand at a place instead."""
    last = path[-1]
    if last in BOUNDED and len(path) > 1:
        return draw(st.sampled_from(BOUNDED[last]))
    if path[0] == "trainer" and last in TRAINING and draw(st.booleans()):
        return draw(st.sampled_from(TRAINING[last]))
    if last == "class_path":
        return draw(st.one_of(st.sampled_from(CLASSES), scalars))
    return draw(values)


def typo(draw: st.DrawFn, name: str) -> str:
    at = draw(st.integers(0, max(0, len(name) - 1)))
    kind = draw(st.sampled_from(["drop", "double", "swap", "case", "dash"]))
    if kind == "drop":
        return name[:at] + name[at + 1 :]
    if kind == "double":
        return name[:at] + name[at : at + 1] + name[at:]
    if kind == "swap":
        return name[:at] + name[at + 1 : at + 2] + name[at : at + 1] + name[at + 2 :]
    return name.upper() if kind == "case" else name.replace("_", "-") + "-"


def mutate(draw: st.DrawFn, tree: dict[str, Any], touched: list[str]) -> None:
    """Changes one thing."""
    kinds = [
        "value",
        "value",
        "value",
        "drop",
        "typo",
        "branch",
        "swap",
        "unknown",
        "trainer",
        "trainer",
        "option",
        "null",
    ]
    kind = draw(st.sampled_from(kinds))
    places = [p for p in paths(tree) if p[0] not in UNTOUCHED or len(p) > 1]
    if kind == "trainer" and isinstance(tree.get("trainer"), dict):
        name = draw(st.sampled_from(sorted({**TRAINING, **{n: BOUNDED[n] for n in BOUNDED if n != "num_workers"}})))
        tree["trainer"][name] = draw(st.sampled_from({**TRAINING, **BOUNDED}[name]))
        touched.append(name)
        return
    if kind == "option":
        name = draw(st.sampled_from(sorted(OPTIONS)))
        tree[name] = draw(st.sampled_from(OPTIONS[name]))
        touched.append(name)
        return
    if not places:
        return
    path = draw(st.sampled_from(places))
    holder, last = get(tree, path[:-1]), path[-1]
    touched.append(str(last))
    if kind in ("value", "null"):
        holder[last] = None if kind == "null" and last not in BOUNDED else value_for(draw, path)
    elif kind == "drop" and last != "max_epochs":
        del holder[last]
    elif kind == "typo" and isinstance(holder, dict) and isinstance(last, str) and last != "max_epochs":
        new = typo(draw, last)
        holder[new] = holder.pop(last)
        touched.append(new)
    elif kind == "branch":
        source = draw(st.sampled_from(places))
        if source[-1] not in BOUNDED and last not in BOUNDED and source[0] != "trainer":
            holder[last] = copy.deepcopy(get(tree, source))
    elif kind == "swap":
        classes = [p for p in places if p[-1] == "class_path"]
        if len(classes) > 1:
            one, other = draw(st.sampled_from(classes)), draw(st.sampled_from(classes))
            a, b = get(tree, one), get(tree, other)
            get(tree, one[:-1])["class_path"], get(tree, other[:-1])["class_path"] = b, a
    elif kind == "unknown" and isinstance(holder, dict):
        name = draw(
            st.one_of(st.text(max_size=8), st.sampled_from(["x", "1", "optimizer", "fit", "config", "class_path"]))
        )
        holder[name] = draw(scalars)
        touched.append(name)


def bytes_mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The file itself damaged, or written in YAML's stranger ways."""
    at = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["cut", "insert", "flip", "tab", "alias", "tag", "duplicate", "prefix", "whole"]))
    line = content.rfind(b"\n", 0, at) + 1
    if kind == "cut":  # the part before the trainer alone has no end
        return content[:at] if b"max_epochs" in content[:at] else content[: max(0, at - 1)] + b"\n]"
    if kind == "insert":
        return (
            content[:at]
            + draw(st.sampled_from([b"\xff", b"\x00", b"\t", b"[", b"{", b": ", b"'", b"*", b"&a ", b"- "]))
            + content[at:]
        )
    if kind == "flip" and content:
        at = min(at, len(content) - 1)
        return content[:at] + bytes([content[at] ^ (1 << draw(st.integers(4, 7)))]) + content[at + 1 :]
    if kind == "tab":
        return content[:line] + b"\t" + content[line:]
    if kind == "alias":
        return (
            content[:line]
            + draw(st.sampled_from([b"x: *nowhere\n", b"x: &a [*a]\n", b"<<: *a\n", b"<<: 3\n"]))
            + content[line:]
        )
    if kind == "tag":
        return content.replace(
            b": ",
            b": " + draw(st.sampled_from([b"!!python/name:os.system ", b"!x ", b"!!int ", b"!!set ", b"!!binary "])),
            1,
        )
    if kind == "duplicate":
        return content + content
    if kind == "prefix":
        return (
            draw(
                st.sampled_from([b"\xef\xbb\xbf", b"---\n", b"\xff\xfe", b"%YAML 9.9\n---\n", b"# c\n", b"a: 1\n---\n"])
            )
            + content
        )
    return draw(
        st.sampled_from(
            [
                b"",
                b"\n",
                b"null",
                b"- a\n- b\n",
                b"text",
                b"3",
                b"{}",
                b"[" * 3000,
                b"a: " + b"[" * 200 + b"]" * 200,
                b"1: 2",
                b"? [a]\n: 1",
            ]
        )
    )


def flag(draw: st.DrawFn, tree: dict[str, Any], touched: list[str]) -> list[str]:
    """One option on the command line."""
    kind = draw(st.sampled_from(["place", "trainer", "option", "odd"]))
    if kind == "odd":
        return draw(
            st.sampled_from(
                [
                    ["--trainer.callbacks+=EarlyStopping"],
                    ["--model.lr", "[1"],
                    ["--model.lr", "!!python/none"],
                    ["--model.lr=*a"],
                    ["--model.lr"],
                    ["--model", ""],
                    ["--network", "nowhere.yaml"],
                    ["--data", "."],
                    ["--no_such=3"],
                    ["extra"],
                    ["--"],
                    ["--config", "/"],
                    ["--config="],
                    ["--run_id"],
                    ["--model.init_args", "x"],
                    ["--model.init_args.lr.x", "1"],
                    ["--model.dict_kwargs.x", "1"],
                    ["--data.classes", "[5, 6"],
                    ["--import", "nowhere.at_all"],
                    ["--resume", "nowhere"],
                    ["--run", "nowhere"],
                    ["--trainer.max_epochs.x", "1"],
                    ["--seed_everything=true"],
                ]
            )
        )
    if kind == "trainer":
        name = draw(st.sampled_from(sorted(TRAINING)))
        key, value = f"trainer.{name}", draw(st.sampled_from(TRAINING[name]))
    elif kind == "option":
        key = draw(st.sampled_from(sorted(OPTIONS)))
        value = draw(st.sampled_from(OPTIONS[key]))
    else:
        path = draw(st.sampled_from([p for p in paths(tree) if len(p) > 1 and all(isinstance(k, str) for k in p)]))
        key, value = ".".join(path), value_for(draw, path)
        if draw(st.booleans()):
            key = key.replace("init_args.", "")
    touched.append(key.rpartition(".")[2])
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    try:
        shown.encode()
    except UnicodeEncodeError:
        shown = ascii(shown)
    shown = shown.replace("\x00", "\\0")  # no argument of a process holds one
    return [f"--{key}={shown}"] if draw(st.booleans()) else [f"--{key}", shown]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A base with one to three changes."""
    tree = copy.deepcopy(BASES[draw(st.sampled_from(sorted(BASES)))])
    tree["wandb"] = "disabled"
    touched: list[str] = []
    where = draw(st.sampled_from(["tree", "tree", "tree", "bytes", "flags", "flags"]))
    if where == "tree":
        for _ in range(draw(st.integers(1, 3))):
            mutate(draw, tree, touched)
    content = dumped(tree)
    if where == "bytes":
        content = bytes_mutated(draw, content)
    flags = [f for _ in range(draw(st.integers(1, 2))) for f in flag(draw, tree, touched)] if where == "flags" else []
    return Case(content, flags, touched)


def dumped(tree: dict[str, Any]) -> bytes:
    """As YAML; a lone surrogate as YAML's escape."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=False).encode("utf-8", "backslashreplace")
