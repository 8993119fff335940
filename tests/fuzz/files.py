"""Data sets, weights and runs that were right once: damaged byte by byte, and in the ways that files really go wrong."""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.data.vision_files import write_folder
from tests.fuzz.configs import DIGITS, MLP, SOURCE, TRAINER, WORDS, on_digits
from tests.fuzz.runner import command
from tests.networks.tiny import tiny_folder

ROOT = Path(__file__).parents[2]
LSTM = {"class_path": "LSTM", "init_args": {"hidden": 8, "embedding_dim": 8, "max_length": 16}}
ROWS: list[dict[str, Any]] = [
    {"text": " ".join(WORDS[i % 7 :: 1 + i % 3]) + f" {WORDS[i % 3]}", "label": "good" if i % 2 else "bad"}
    for i in range(24)
]
CHAT: list[dict[str, Any]] = [
    {"prompt": f"say {WORDS[i % 7]}", "completion": f"{WORDS[i % 7]} it is"} for i in range(12)
]


# ---- what is right ----


def plain(network: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """A run of one epoch."""
    return {
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.01}},
        "network": network,
        "data": data,
        "trainer": TRAINER,
        "wandb": "disabled",
        "quiet": True,
    }


def table(suffix: str) -> dict[str, Any]:
    return plain(
        LSTM,
        {"class_path": "TextTable", "init_args": {"train": f"rows{suffix}", "val_fraction": 0.25, "batch_size": 8}},
    )


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """In the format of the file's suffix."""
    if path.suffix in (".csv", ".tsv"):
        mark = "," if path.suffix == ".csv" else "\t"
        names = list(rows[0])
        path.write_text(
            "\n".join(mark.join(map(str, r)) for r in [names, *([row[n] for n in names] for row in rows)]) + "\n"
        )
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_config(folder: Path, content: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def make_images(folder: Path) -> None:
    write_folder(folder / "images" / "train", {"a": 8, "b": 8}, side=18, seed=1)
    write_folder(folder / "images" / "val", {"a": 3, "b": 3}, side=18, seed=2)
    for name in ("a/6", "b/6"):  # some in another format
        file = folder / "images" / "train" / f"{name}.png"
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    network = {"class_path": "LeNet", "init_args": {"image_size": 16}}
    write_config(
        folder, plain(network, {"class_path": "ImageFolder", "init_args": {"root": "images", "batch_size": 4}})
    )


def make_weights(folder: Path) -> None:
    shutil.copytree(ROOT / "sft_lightning" / "assets" / "digits-0-4", folder / "net")
    config = on_digits("DistillSFT", anchor_weight=0.1)
    config["network"] = {"class_path": "MLP", "init_args": {**MLP["init_args"], "pretrained": "net"}}
    write_config(folder, {**config, "wandb": "disabled", "quiet": True})


def make_bert(folder: Path) -> None:
    tiny_folder(folder / "net", "bert", "none")
    write_table(folder / "rows.csv", ROWS)
    content = table(".csv")
    content["network"] = {"class_path": "TransformersText", "init_args": {"pretrained": "net"}}
    write_config(folder, content)


def make_lm(folder: Path) -> None:
    tiny_folder(folder / "net", "gpt2", "lm")
    write_table(folder / "rows.jsonl", CHAT)
    network = {"class_path": "TransformersLM", "init_args": {"pretrained": "net"}}
    data = {"class_path": "Instructions", "init_args": {"train": "rows.jsonl", "val_fraction": 0.25, "batch_size": 4}}
    write_config(folder, plain(network, data))


def make_run(folder: Path) -> None:
    content = {
        "model": {"class_path": "PlainSFT"},
        "network": MLP,
        "data": DIGITS,
        "retention": SOURCE,
        "trainer": TRAINER,
    }
    write_config(folder, {**content, "wandb": "disabled", "quiet": True})
    ended = command(
        folder, "fit", "--config", "config.yaml", "--run_id", "it", "--experiment", "run", "--runs_dir", "."
    )
    assert ended.code == 0, ended
    (folder / "config.yaml").unlink()


def of_table(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_table(folder / f"rows{suffix}", ROWS)
        write_config(folder, table(suffix))

    return make


FIT = ["fit", "--config", "config.yaml"]
SKIP = [*FIT, "--data.on_bad_sample", "skip"]
SUBJECTS: dict[str, tuple[Callable[[Path], None], list[str], list[list[str]]]] = {
    "csv": (of_table(".csv"), ["rows.csv"], [FIT, SKIP]),
    "tsv": (of_table(".tsv"), ["rows.tsv"], [FIT, SKIP]),
    "jsonl": (of_table(".jsonl"), ["rows.jsonl"], [FIT, SKIP]),
    "json": (of_table(".json"), ["rows.json"], [FIT, SKIP]),
    "parquet": (of_table(".parquet"), ["rows.parquet"], [FIT, SKIP]),
    "images": (
        make_images,
        [
            "images/train/a/0.png",
            "images/train/b/1.png",
            "images/val/a/0.png",
            "images/train/a/6.jpg",
            "images/train/b/6.jpg",
        ],
        [FIT, SKIP],
    ),
    "weights": (make_weights, ["net/model.safetensors", "net/model.safetensors", "net/config.json"], [FIT]),
    "bert": (
        make_bert,
        ["net/config.json", "net/model.safetensors", "net/tokenizer.json", "net/tokenizer_config.json"],
        [FIT],
    ),
    "lm": (make_lm, ["rows.jsonl", "rows.jsonl", "net/config.json", "net/tokenizer_config.json"], [FIT, SKIP]),
    "run": (
        make_run,
        ["run/it/run.json", "run/it/config.yaml", "run/it/checkpoints/last.ckpt", "run/it/metrics.jsonl"],
        [
            ["test", "--run", "run/it"],
            ["validate", "--run", "run/it", "--ckpt_path", "run/it/checkpoints/last.ckpt"],
            ["fit", "--resume", "run/it", "--trainer.max_epochs", "2"],
            ["fit", "--resume", "run/it"],
        ],
    ),
}


def make_all(folder: Path) -> None:
    """One folder for each subject, to be copied."""
    for name, (make, *_) in SUBJECTS.items():
        (folder / name).mkdir()
        make(folder / name)


# ---- what goes wrong ----

Edit = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """A subject, what is done to which of its files, and the command."""

    subject: str
    edits: list[tuple[str, Edit]]
    arguments: list[str]


def apply(path: Path, edit: Edit) -> None:
    """Carries an edit out. Where the file is not of the kind any more that the edit needs, its bytes are cut instead."""
    kind, *rest = edit
    if path.is_dir() or not path.exists():
        return  # an edit before made it so
    content = path.read_bytes()
    if kind in BYTES:
        path.write_bytes(BYTES[kind](content, int(rest[0] * len(content)), *rest[1:]))
        return
    try:
        DONE[kind](path, *rest)
    except Exception:
        path.write_bytes(content[:-1])


BYTES: dict[str, Callable[..., bytes]] = {
    "flip": lambda c, at, bit: c[:at] + bytes([c[at] ^ (1 << bit)]) + c[at + 1 :] if at < len(c) else c,
    "delete": lambda c, at, n: c[:at] + c[at + n :],
    "insert": lambda c, at, new: c[:at] + new + c[at:],
    "truncate": lambda c, at: c[:at],
    "duplicate": lambda c, at, n: c[:at] + c[at : at + n] * 2 + c[at + n :],
    "zero": lambda c, at, n: c[:at] + bytes(min(n, len(c) - at)) + c[at + n :],
    "whole": lambda c, at, new: new,
}
WHOLE = [
    *(
        b"",
        b"\n",
        b"\x00" * 64,
        b"{}",
        b"[]",
        b"null",
        b"3",
        b"NaN",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe\x00",
    ),
    *(
        b"text,label\n",
        b"text\tlabel\n",
        b"text,label\n,\n",
        b"\xef\xbb\xbf",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
    ),
    *(
        b"PAR1",
        b"PAR1" * 2,
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
        b"\xff" * 8 + b"{",
        b"GIF89a",
        b"<svg/>",
        b"9" * 6000,
    ),
]


def of_rows(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Rewrites a table with changed rows."""
    rows = [dict(r) for r in (CHAT if "prompt" in path.read_text(errors="replace") else ROWS)]
    change(rows)
    write_table(path, rows)


def row_value(path: Path, row: int, value: Any, label: bool) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row % len(rows)][list(rows[0])[-1 if label else 0]] = value

    of_rows(path, change)


def column_value(path: Path, value: Any, label: bool) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[list(rows[0])[-1 if label else 0]] = value

    of_rows(path, change)


def fewer_rows(path: Path, number: int) -> None:
    of_rows(path, lambda rows: rows.__delitem__(slice(number, None)))


def rename_column(path: Path, name: str) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            first = next(iter(row))
            row[name] = row.pop(first)

    of_rows(path, change)


def png_header(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")


def drawn(mode: str, size: tuple[int, int], form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, **({"color": 200} if mode in ("L", "P", "1") else {})).save(out, form, **options)
    return out.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "1 x 1": lambda: drawn("RGB", (1, 1), "PNG"),
    "1 x 4000": lambda: drawn("RGB", (1, 4000), "PNG"),
    "4000 x 1": lambda: drawn("RGB", (4000, 1), "PNG"),
    "16 bits": lambda: drawn("I;16", (18, 18), "PNG"),
    "32 bits": lambda: drawn("I", (18, 18), "TIFF"),
    "floats": lambda: drawn("F", (18, 18), "TIFF"),
    "1 bit": lambda: drawn("1", (18, 18), "PNG"),
    "palette": lambda: drawn("P", (18, 18), "PNG"),
    "transparent": lambda: drawn("RGBA", (18, 18), "PNG"),
    "grey, transparent": lambda: drawn("LA", (18, 18), "PNG"),
    "CMYK": lambda: drawn("CMYK", (18, 18), "JPEG"),
    "lab": lambda: drawn("LAB", (18, 18), "TIFF"),
    "animated": lambda: drawn("P", (18, 18), "GIF", save_all=True, append_images=[Image.new("P", (18, 18), 3)]),
    "webp": lambda: drawn("RGB", (18, 18), "WEBP"),
    "bomb": lambda: png_header(60_000, 60_000),
    "wide bomb": lambda: png_header(2**31 - 1, 1),
    "large, empty": lambda: png_header(9_000, 9_000),
    "no width": lambda: png_header(0, 5),
    "odd depth": lambda: png_header(5, 5, 3, 7),
    "turned": lambda: turned(),
}


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return drawn("RGB", (18, 30), "JPEG", exif=exif)


def picture(path: Path, name: str) -> None:
    path.write_bytes(PICTURES[name]())


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def gone(path: Path) -> None:
    path.unlink()


def tensors(path: Path, what: str) -> None:
    """Another content of a safetensors file."""
    state = load_file(path)
    name = sorted(state)[0]
    if what == "missing":
        del state[name]
    elif what == "extra":
        state["another"] = torch.zeros(3)
    elif what == "renamed":
        state = {f"x.{n}": v for n, v in state.items()}
    elif what in ("float16", "bfloat16", "float64", "int64", "bool", "uint8", "complex64"):
        state[name] = state[name].to(getattr(torch, what))
    elif what == "nan":
        state[name] = torch.full_like(state[name], float("nan"))
    elif what == "infinite":
        state[name] = torch.full_like(state[name], float("inf"))
    elif what == "empty":
        state[name] = state[name][:0]
    elif what == "scalar":
        state[name] = torch.tensor(1.0)
    elif what == "flat":
        state[name] = state[name].reshape(-1)
    elif what == "none":
        state = {}
    elif what == "one more":
        state[name] = torch.cat([state[name], state[name][:1]])
    save_file({n: v.contiguous() for n, v in state.items()}, path, metadata={"format": "pt"})


TENSORS = [
    *("missing", "extra", "renamed", "float16", "bfloat16", "float64", "int64", "bool", "uint8", "nan", "infinite"),
    *("empty", "scalar", "flat", "none", "one more", "complex64"),
]


def header_length(path: Path, length: int) -> None:
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found += places(value, (*at, key))
    return found


def in_tree(tree: Any, at: float, value: Any, drop: bool) -> None:
    """Replaces or drops one value of nested ones."""
    path = places(tree)[int(at * len(places(tree)))]
    for key in path[:-1]:
        tree = tree[key]
    if drop:
        del tree[path[-1]]
    else:
        tree[path[-1]] = value


def json_value(path: Path, at: float, value: Any, drop: bool) -> None:
    content = json.loads(path.read_text())
    in_tree(content, at, value, drop)
    path.write_text(json.dumps(content))


def yaml_value(path: Path, at: float, value: Any, drop: bool) -> None:
    content = yaml.safe_load(path.read_text())
    before = content["trainer"]["max_epochs"]
    in_tree(content, at, value, drop)
    if isinstance(content.get("trainer"), dict):  # or it would have no end
        content["trainer"]["max_epochs"] = before
        content["trainer"]["devices"] = 1
        content["trainer"].pop("max_time", None)
    path.write_text(yaml.safe_dump(content))


def checkpoint_value(path: Path, at: float, value: Any, drop: bool) -> None:
    content = torch.load(path, weights_only=True)
    tree = {k: v for k, v in content.items() if k not in ("state_dict", "random_states")}
    in_tree(tree, at, value, drop)
    path.unlink()  # best.ckpt may be the same file
    torch.save({**tree, **{k: content[k] for k in ("state_dict", "random_states") if k in content}}, path)


def checkpoint_key(path: Path, at: float, value: Any, drop: bool) -> None:
    content = torch.load(path, weights_only=True)
    name = sorted(content)[int(at * len(content))]
    content[name] = value
    if drop:
        del content[name]
    path.unlink()
    torch.save(content, path)


def checkpoint_weights(path: Path, what: str) -> None:
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    name = sorted(state)[0]
    if what == "missing":
        del state[name]
    elif what == "extra":
        state["x"] = torch.zeros(1)
    elif what == "shape":
        state[name] = torch.zeros(3, 3)
    elif what == "nan":
        state[name] = torch.full_like(state[name], float("nan"))
    elif what == "text":
        state[name] = "x"
    else:
        content["state_dict"] = torch.nn.Linear(1, 1).state_dict() if what == "other" else what
    path.unlink()
    torch.save(content, path)


DONE: dict[str, Callable[..., None]] = {
    "row": row_value,
    "column": column_value,
    "fewer": fewer_rows,
    "rename": rename_column,
    "picture": picture,
    "to folder": to_folder,
    "to nowhere": to_nowhere,
    "gone": gone,
    "tensors": tensors,
    "header": header_length,
    "json": json_value,
    "yaml": yaml_value,
    "checkpoint value": checkpoint_value,
    "checkpoint key": checkpoint_key,
    "checkpoint weights": checkpoint_weights,
}

fractions = st.floats(0, 1, exclude_max=True)
junk: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            3,
            1.5,
            2**31,
            2**63,
            -(2**63),
            10**30,
            float("nan"),
            float("inf"),
            "",
            " ",
            "x",
            "\ud800",
        ),
        *(
            "a\x00b",
            "é",
            "🙂",
            "a" * 2000,
            [],
            [1],
            ["x"],
            [[]],
            {},
            {"a": 1},
            {"class_path": "x"},
            "../../x",
            "/dev/null",
            "[1",
            "1e3",
        ),
    ]
)
plain_bytes: st.SearchStrategy[Edit] = st.one_of(
    st.tuples(st.just("flip"), fractions, st.integers(0, 7)),
    st.tuples(st.just("flip"), fractions.map(lambda f: f / 50), st.integers(0, 7)),  # headers
    st.tuples(st.just("delete"), fractions, st.sampled_from([1, 2, 8, 64, 1000])),
    st.tuples(
        st.just("insert"),
        fractions,
        st.sampled_from([b"\x00", b"\xff", b'"', b"\n", b",", b"{", b"\\", b"\r", b"\t", b"a" * 99]),
    ),
    st.tuples(st.just("truncate"), fractions),
    st.tuples(st.just("duplicate"), fractions, st.sampled_from([1, 7, 64, 1000])),
    st.tuples(st.just("zero"), fractions, st.sampled_from([1, 8, 64, 1000])),
    st.tuples(st.just("whole"), fractions, st.sampled_from(WHOLE)),
    st.tuples(st.sampled_from(["to folder", "to nowhere", "gone"])),
)


def edits(subject: str, file: str) -> st.SearchStrategy[Edit]:
    """What may be done to a file."""
    suffix = Path(file).suffix
    some = [plain_bytes]
    if file.startswith("rows"):
        some += [
            st.tuples(st.just("row"), st.integers(0, 30), junk, st.booleans()),
            st.tuples(st.just("column"), junk, st.booleans()),
            st.tuples(st.just("fewer"), st.integers(0, 6)),
            st.tuples(st.just("rename"), st.sampled_from(["", "txt", "é", "label", "a,b", "messages", "x"])),
        ]
    elif file.startswith("images"):
        some += [st.tuples(st.just("picture"), st.sampled_from(sorted(PICTURES)))] * 2
    elif suffix == ".safetensors":
        lengths = st.sampled_from([0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, 100_000_000])
        some += [st.tuples(st.just("tensors"), st.sampled_from(TENSORS)), st.tuples(st.just("header"), lengths)]
    elif suffix == ".json":
        some += [st.tuples(st.just("json"), fractions, junk, st.booleans())] * 3
    elif suffix == ".yaml":
        some += [st.tuples(st.just("yaml"), fractions, junk, st.booleans())] * 3
    elif suffix == ".ckpt":
        some += [
            st.tuples(st.just("checkpoint value"), fractions, junk, st.booleans()),
            st.tuples(st.just("checkpoint key"), fractions, junk, st.booleans()),
            st.tuples(
                st.just("checkpoint weights"),
                st.sampled_from(["missing", "extra", "shape", "nan", "text", "other", "x"]),
            ),
        ]
    return st.one_of(some)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One or two files of a subject damaged."""
    subject = draw(st.sampled_from(sorted(SUBJECTS)))
    _, files, commands = SUBJECTS[subject]
    chosen = [draw(st.sampled_from(files)) for _ in range(draw(st.sampled_from([1, 1, 1, 2])))]
    return Case(subject, [(file, draw(edits(subject, file))) for file in chosen], draw(st.sampled_from(commands)))
