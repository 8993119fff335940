"""Text data: formats, tokenising, length grouping, metrics on ragged batches, and every mistake in one line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import GLUE, IMDB, TREC, AGNews, Digits, SFTDataModule, TextTable
from sft_lightning.data.text import TextRows
from sft_lightning.data.text.glue import SUBSETS
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import LSTM, MLP, TransformersText, spec
from sft_lightning.tasks import make_task
from tests.data.text_files import GLUE_COLUMNS, texts, write_glue, write_jsonl, write_parquet, write_text
from tests.networks.tiny import tiny_folder
from tests.refused import refused
from tests.support import fit, quiet_trainer, settle

TASK = TaskInfo("classification", 2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "bert", "bert", "sequence")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"text": t, "label": ("no", "yes")[i % 2]} for i, t in enumerate(texts(count))]


def ready(data: SFTDataModule, network: Any, stage: str = "fit") -> SFTDataModule:
    data.setup(stage)
    settle(data, network)
    return data


# ---- formats ----


def test_one_table_in_every_format(tmp_path: Path) -> None:
    wanted = rows(20)
    wanted[3]["text"] = 'commas, "quotes"\nand a line break'
    quoted = ["text,label", *(f'"{r["text"].replace(chr(34), chr(34) * 2)}",{r["label"]}' for r in wanted)]
    files = [
        write_text(tmp_path / "a.csv", "\n".join(quoted) + "\n"),
        write_text(tmp_path / "a.tsv", re.sub(",(no|yes|label)$", "\t\\1", "\n".join(quoted), flags=re.MULTILINE)),
        write_jsonl(tmp_path / "a.jsonl", wanted),
        write_text(tmp_path / "a.json", json.dumps(wanted)),
        write_parquet(
            tmp_path / "a.parquet",
            {"text": [r["text"] for r in wanted], "label": [int(r["label"] == "yes") for r in wanted]},
            {"label": ["no", "yes"]},
        ),
    ]
    prints = set()
    for file in files:
        data = TextTable(train=file)
        data.setup()
        assert data.task_info is not None
        assert data.task_info.labels == ["no", "yes"]
        samples = data.splits["train"].samples
        assert isinstance(samples, TextRows)
        assert samples.texts == [r["text"] for r in wanted]
        assert samples.targets is not None
        assert samples.targets.tolist() == [int(r["label"] == "yes") for r in wanted]
        prints.add(tuple(sorted(data.fingerprint().items())))
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("labels", "given", "names", "numbers"),
    [
        ([0, 1, 0, 1], None, ["0", "1"], [0, 1, 0, 1]),
        ([1, 2, 10, 1], None, ["1", "2", "10"], [0, 1, 2, 0]),
        (["b", "a", "b", "a"], None, ["a", "b"], [1, 0, 1, 0]),
        (["b", "a", "b", "a"], ["b", "a", "c"], ["b", "a", "c"], [0, 1, 0, 1]),
        ([0, 1, 1, 0], ["neg", "pos"], ["neg", "pos"], [0, 1, 1, 0]),
        ([5, 1, 1, 5], ["1", "5"], ["1", "5"], [1, 0, 0, 1]),
    ],
)
def test_labels(tmp_path: Path, labels: list[Any], given: Any, names: list[str], numbers: list[int]) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "label": v} for v in labels])
    loaded = TextTable(train=file, labels=given).load()
    assert loaded.labels == names
    assert loaded.train.targets is not None
    assert loaded.train.targets.tolist() == numbers


@pytest.mark.parametrize("subset", list(GLUE_COLUMNS))
def test_glue_with_its_official_metrics(tmp_path: Path, bert: str, subset: Any) -> None:
    official = {
        "cola": ["matthews"],
        "mrpc": ["accuracy", "f1"],
        "qqp": ["accuracy", "f1"],
        "stsb": ["pearson", "spearman"],
    }.get(subset, ["accuracy"])
    data = GLUE(subset, root=write_glue(tmp_path, subset), batch_size=8)
    module = PlainSFT(spec(TransformersText, pretrained=bert), lr=1e-3)
    values = quiet_trainer().test(module, data, verbose=False)[0]
    assert {n.removeprefix("test/") for n in values if n.startswith("test/")} == {"loss", *official}
    assert module.task is not None
    assert module.task.primary.name == official[0]
    assert (module.task.name == "regression") == (subset == "stsb")
    assert data.splits["train"].samples is data.splits["val"].samples  # cut from train: test is the official validation
    assert len(data.splits["test"]) == 21
    assert "val is cut from its train" in data.describe()
    assert module.network is not None
    with torch.no_grad():  # not everything the same class: scikit-learn and torchmetrics differ on what that is worth
        module.network.head.weight.normal_()
        features = torch.cat([module.network(b["x"]).features for b in data.test_dataloader()])
        module.network.head.bias.copy_(-module.network.head.weight @ features.mean(0))
    values = quiet_trainer().test(module, data, verbose=False)[0]
    y, said = predictions(module, data)
    assert len(set(said)) > 1
    for name, value in reference(SUBSETS[subset].metrics, y, said).items():
        assert values[f"test/{name}"] == pytest.approx(value, abs=1e-5), name


def test_mnli_mismatched(tmp_path: Path) -> None:
    data = GLUE("mnli", root=write_glue(tmp_path, "mnli"), mismatched=True)
    data.setup()
    assert len(data.splits["test"]) == 23
    assert "validation_mismatched" in data.describe()


def test_stsb_trains_through_a_regression_head(tmp_path: Path, bert: str) -> None:
    data = GLUE("stsb", root=write_glue(tmp_path, "stsb"), batch_size=8)
    module = PlainSFT(spec(TransformersText, pretrained=bert, dropout=0.0), lr=3e-3)
    trainer = fit(module, data, max_epochs=1)
    first = trainer.callback_metrics["train/loss"]
    trainer = fit(PlainSFT(spec(TransformersText, pretrained=bert, dropout=0.0), lr=3e-3), data, max_epochs=8)
    assert trainer.callback_metrics["train/loss"] < first
    assert module.network is not None
    assert module.network.head.weight.shape[0] == 1
    module.network.save_pretrained(str(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["problem_type"] == "regression"


def predictions(module: PlainSFT, data: SFTDataModule) -> tuple[np.ndarray, np.ndarray]:
    """Targets and what is said of them, over all batches of the test split."""
    assert module.network is not None
    assert module.task is not None
    module.eval()
    y, said = [], []
    with torch.no_grad():
        for batch in data.test_dataloader():
            y.append(batch["y"])
            said.append(module.task.predict(module.output(batch).logits))
    return torch.cat(y).numpy(), torch.cat(said).numpy()


def reference(names: list[str], y: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """The metrics by scikit-learn and scipy."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn import metrics

    makers = {
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,
        "f1_macro": lambda y, s: metrics.f1_score(y, s, average="macro"),
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda y, s: pearsonr(y, s)[0],
        "spearman": lambda y, s: spearmanr(y, s)[0],
    }
    return {name: float(makers[name](y, said)) for name in names}


def test_trec_from_jsonl_and_from_parquet(tmp_path: Path) -> None:
    labels = [0, 1, 2, 3, 4, 5] * 4
    for split in ("train", "test"):
        write_jsonl(
            tmp_path / f"a/{split}.jsonl", [{"text": t, "label": v} for t, v in zip(texts(24), labels, strict=True)]
        )
        write_parquet(
            tmp_path / f"b/default/{split}/0000.parquet",
            {"text": texts(24), "coarse_label": [(2, 1, 0, 3, 4, 5)[v] for v in labels], "fine_label": [7] * 24},
        )
    named = []
    for folder in ("a", "b"):
        data = TREC(root=str(tmp_path / folder))
        data.setup()
        assert data.task_info is not None
        assert data.task_info.num_outputs == 6
        targets = data.splits["test"].targets
        assert targets is not None
        named.append([data.task_info.labels[t] for t in targets])
    assert named[0] == named[1]
    assert named[0][:6] == ["DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"]


def test_ag_news_and_imdb(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(
            tmp_path / f"ag/data/{split}-00000-of-00001.parquet", {"text": texts(40), "label": [0, 1, 2, 3] * 10}
        )
        write_parquet(
            tmp_path / f"imdb/plain_text/{split}-00000-of-00001.parquet", {"text": texts(20), "label": [0, 1] * 10}
        )
        for i, text in enumerate(texts(20)):
            folder = tmp_path / "aclImdb" / split / ("neg", "pos")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}_{7}.txt").write_text(text)
    news = AGNews(root=str(tmp_path / "ag"), val_fraction=0.2)
    news.setup()
    assert news.task_info is not None
    assert news.task_info.labels == ["World", "Sports", "Business", "Sci/Tech"]
    assert (len(news.splits["train"]), len(news.splits["val"]), len(news.splits["test"])) == (32, 8, 40)
    for folder in ("imdb", "aclImdb"):
        reviews = IMDB(root=str(tmp_path / folder))
        reviews.setup()
        assert len(reviews.splits["test"]) == 20
        assert "neg, pos" in reviews.describe()


# ---- tokens and batches ----


def test_batches_are_padded_to_their_longest(tmp_path: Path, bert: str) -> None:
    network = TransformersText(TASK, pretrained=bert)
    data = ready(TextTable(train=write_jsonl(tmp_path / "a.jsonl", rows(70)), batch_size=8), network)
    shapes = set()
    for batch in data.train_dataloader():
        x = batch["x"]
        lengths = x["attention_mask"].sum(1)
        assert x.keys() == {"input_ids", "attention_mask", "token_type_ids"}
        assert x["input_ids"].shape[1] == lengths.max()
        assert x["input_ids"].dtype == torch.int64
        assert ((x["input_ids"] != network.tokenizer.pad_token_id).sum(1) == lengths).all()
        shapes.add(x["input_ids"].shape[1])
    assert len(shapes) > 1


def test_pairs_carry_token_types(tmp_path: Path, bert: str) -> None:
    network = TransformersText(TASK, pretrained=bert)
    file = write_jsonl(tmp_path / "a.jsonl", [{"a": "one two", "b": "three", "label": i % 2} for i in range(20)])
    data = ready(TextTable(train=file, text_column="a", pair_column="b"), network)
    x = next(iter(data.train_dataloader()))["x"]
    wanted = network.tokenizer("one two", "three")
    assert x["input_ids"][0].tolist() == wanted["input_ids"]
    assert x["token_type_ids"][0].tolist() == wanted["token_type_ids"]


@pytest.mark.parametrize("network", ["bert", "lstm"])
def test_grouping_by_length_changes_no_output(tmp_path: Path, bert: str, network: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", rows(50))
    built = TransformersText(TASK, pretrained=bert) if network == "bert" else LSTM(TASK, min_count=1)
    built.eval()
    found: list[dict[int, torch.Tensor]] = []
    padded = []
    for group in (True, False):
        data = ready(TextTable(train=file, batch_size=8, group_by_length=group, seed=3), built)
        outputs: dict[int, torch.Tensor] = {}
        width = 0
        for batch in data.train_dataloader():
            with torch.no_grad():
                logits = built(batch["x"]).logits
            width += batch["x"]["input_ids"].numel()
            assert not outputs.keys() & set(batch["index"].tolist())
            outputs |= dict(zip(batch["index"].tolist(), logits, strict=True))
        found.append(outputs)
        padded.append(width)
    assert found[0].keys() == found[1].keys()  # each sample once an epoch
    assert len(found[0]) == 45
    for index, logits in found[0].items():
        torch.testing.assert_close(logits, found[1][index], rtol=1e-4, atol=1e-5)
    assert padded[0] < padded[1]


def test_each_epoch_has_the_same_samples_in_another_order(tmp_path: Path, bert: str) -> None:
    network = TransformersText(TASK, pretrained=bert)
    data = ready(TextTable(train=write_jsonl(tmp_path / "a.jsonl", rows(50)), batch_size=8), network)
    orders = []
    for epoch in (0, 1):
        loader: Any = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        orders.append([i for batch in loader for i in batch["index"].tolist()])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_truncated_share_is_reported(tmp_path: Path, bert: str) -> None:
    network = TransformersText(TASK, pretrained=bert)
    short, exact, long = "one", "one one one one", "one one one one one"
    assert [len(network.tokenizer(t)["input_ids"]) for t in (short, exact, long)] == [3, 6, 7]
    make = [{"text": t, "label": i % 2} for i, t in enumerate([short, exact, long, short] * 5)]
    file = write_jsonl(tmp_path / "a.jsonl", make)
    data = ready(TextTable(train=file, val=file, max_length=6), network)
    assert data.truncated == {"train": 0.25, "val": 0.25}
    assert "truncated to 6 tokens: 25.0% of train, 25.0% of val" in data.describe()
    assert max(b["x"]["input_ids"].shape[1] for b in data.train_dataloader()) == 6
    assert ready(TextTable(train=file), network).truncated == {"train": 0.0, "val": 0.0}


def test_metrics_on_ragged_batches_equal_scikit_learn(tmp_path: Path, bert: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", rows(53))
    data = TextTable(train=file, test=file, eval_batch_size=8)
    module = PlainSFT(spec(TransformersText, pretrained=bert))
    values = quiet_trainer().test(module, data, verbose=False)[0]
    y, said = predictions(module, data)
    for name, value in reference(["accuracy", "f1_macro"], y, said).items():
        assert values[f"test/{name}"] == pytest.approx(value, abs=1e-6)
    whole = next(iter(ready(TextTable(train=file, test=file, eval_batch_size=53), module.network).test_dataloader()))
    with torch.no_grad():
        loss = make_task(TaskInfo("classification", 2)).loss(module.eval().output(whole), whole).total / 53
    assert values["test/loss"] == pytest.approx(float(loss), abs=1e-5)


def test_predicting_needs_no_labels_and_no_training_data(tmp_path: Path, bert: str) -> None:
    file = write_text(tmp_path / "new.csv", "id,text\n" + "".join(f"{i},text {i}\n" for i in range(9)))
    task = TaskInfo("classification", 2, ["a", "b"]).to_dict()
    module = PlainSFT(spec(TransformersText, pretrained=bert), task=task)
    batches = quiet_trainer().predict(module, TextTable(predict=file, batch_size=4))
    assert batches is not None
    assert sum(len(b) for b in batches) == 9
    assert {r["label"] for b in batches for r in b} <= {"a", "b"}


def test_regression_on_a_table(tmp_path: Path, bert: str) -> None:
    file = write_text(tmp_path / "a.csv", "text,score\n" + "".join(f"text {i},{i / 3}\n" for i in range(20)))
    data = TextTable(train=file, label_column="score", task="regression")
    trainer = fit(PlainSFT(spec(TransformersText, pretrained=bert)), data, max_epochs=1)
    assert {"val/mse", "val/pearson"} <= trainer.callback_metrics.keys()


def test_the_same_data_for_another_network(tmp_path: Path, bert: str) -> None:
    """Its own tokenizer counts, and words are learned again."""
    data = TextTable(train=write_jsonl(tmp_path / "a.jsonl", rows(30)), batch_size=8)
    networks = [TransformersText(TASK, pretrained=bert), LSTM(TASK, min_count=1), LSTM(TASK, min_count=2)]
    for network in networks:
        ready(data, network)
        samples = data.splits["train"].samples
        assert isinstance(samples, TextRows)
        assert samples.ids[0].tolist() == network.tokenizer(samples.texts[:1])["input_ids"][0]
        assert (samples.types is None) == isinstance(network, LSTM)


def test_workers_give_the_same_batches(tmp_path: Path, bert: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", rows(30))
    network = TransformersText(TASK, pretrained=bert)
    found = [
        [
            b["x"]["input_ids"]
            for b in ready(TextTable(train=file, batch_size=8, num_workers=n), network).train_dataloader()
        ]
        for n in (0, 2)
    ]
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


# ---- mistakes ----

GOOD = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
FILES: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("a.jsonl", GOOD + "\n{oops\n", {}, ("a.jsonl line 4",)),
    ("a.jsonl", GOOD + "[1]\n", {}, ("a.jsonl line 3", "a list")),
    ("a.jsonl", GOOD + '{"text": "", "label": "x"}\n', {}, ("a.jsonl line 3: column 'text'",)),
    ("a.jsonl", GOOD + '{"text": " ", "label": "x"}\n', {}, ("a.jsonl line 3: column 'text'",)),
    ("a.jsonl", GOOD + '{"label": "x"}\n', {}, ("a.jsonl line 3: column 'text'",)),
    ("a.jsonl", GOOD + '{"text": 3, "label": "x"}\n', {}, ("a.jsonl line 3: column 'text'", "(3)", "data.text_column")),
    ("a.jsonl", GOOD, {"text_column": "texts"}, ("column 'texts'", "mean 'text'", "set data.text_column")),
    ("a.jsonl", GOOD, {"label_column": "labels"}, ("column 'labels'", "mean 'label'", "set data.label_column")),
    ("a.jsonl", GOOD, {"labels": ["x", "z"]}, ("a.jsonl line 2: label 'y'", "2 classes x, z", "data.labels")),
    ("a.jsonl", GOOD, {"task": "regression"}, ("a.jsonl line 1: column 'label'", "'x'")),
    ("a.jsonl", "", {}, ("a.jsonl",)),
    ("a.json", "[{]", {}, ("a.json",)),
    ("a.json", '["a"]', {}, ("a.json row 0", "a text")),
    ("a.csv", "text,label\na,x\nb,y,z\n", {}, ("a.csv line 3", "3 fields", "2")),
    ("a.csv", 'text,label\na,x\n"b,y\n', {}, ("a.csv line 3",)),
    ("a.csv", "text,label\n1,x\n2.5,y\n", {}, ("a.csv: column 'text'", "numbers", "data.text_column")),
    ("a.parquet", "no parquet", {}, ("a.parquet",)),
    ("a.xlsx", "", {}, ("a.xlsx", ".csv, .tsv")),
]


@pytest.mark.parametrize(("name", "content", "arguments", "values"), FILES)
def test_mistakes_in_files_are_one_line(
    tmp_path: Path, name: str, content: str, arguments: dict[str, Any], values: tuple[str, ...]
) -> None:
    with refused("data.train" if name == "a.xlsx" else "data", *values):
        TextTable(train=write_text(tmp_path / name, content), **arguments).setup()


def test_other_mistakes_are_one_line(tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(make: Any, key: str, *values: object) -> None:
        with refused(key, *values):
            make()

    file = write_jsonl(tmp_path / "train.jsonl", rows(20))
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "maybe"}])
    missing = TextTable(train=str(tmp_path / "trian.jsonl"))
    refuses(missing.setup, "data.train", tmp_path / "trian.jsonl", "'train.jsonl'")
    refuses(TextTable(train=file, test=test).setup, "data", "test.jsonl line 1", "label 'maybe'")
    refuses(TextTable().setup, "data", "train", "path")
    refuses(lambda: TextTable(path="x/y", train=file), "data", "path", "train")
    refuses(lambda: TextTable(train=file, labels=["a", "a"]), "data.labels", "a, a")
    refuses(lambda: TextTable(train=file, labels=["a"], task="regression"), "data.labels", "regression", "null")
    refuses(lambda: TextTable(task="nonsense"), "data.task", "'nonsense'")  # type: ignore[arg-type]
    refuses(lambda: TextTable(train=file, max_length=0), "data.max_length", "at least 1", 0)
    refuses(lambda: GLUE("sst"), "data.subset", "'sst'", "'sst2'")  # type: ignore[arg-type]
    refuses(lambda: GLUE("rte", mismatched=True), "data.mismatched", "mnli", "rte")
    refuses(GLUE("rte", root=str(tmp_path)).setup, "data.root", tmp_path / "rte")
    refuses(AGNews(root=str(_empty(tmp_path))).setup, "data.root", tmp_path / "empty", "train.jsonl")
    (tmp_path / "latin.csv").write_bytes(b"text,label\n\xff,x\n")
    refuses(TextTable(train=str(tmp_path / "latin.csv")).setup, "data", "latin.csv", "byte 11", "line 2", "0xff")

    network = TransformersText(TASK, pretrained=bert)
    refuses(lambda: ready(TextTable(train=file, max_length=65), network), "data.max_length", 65, "64 tokens")
    refuses(lambda: ready(TextTable(train=file, max_length=3), network), "data.max_length", 3, "3 special tokens")
    image = MLP(TASK, in_features=64)
    refuses(lambda: ready(TextTable(train=file), image), "network", "MLP", "TextTable")
    refuses(lambda: ready(Digits(), network), "network", "TransformersText", "Digits")

    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach it\nat all")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    refuses(AGNews().setup, "data", "'fancyzhx/ag_news'", "(Couldn't reach it)")


def _empty(root: Path) -> Path:
    (root / "empty").mkdir()
    return root / "empty"


def test_data_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fake(name: str, config: str | None = None, revision: str | None = None) -> Any:
        assert (name, config) == ("nyu-mll/glue", "rte")
        features = datasets.Features(
            sentence1=datasets.Value("string"),
            sentence2=datasets.Value("string"),
            label=datasets.ClassLabel(names=["entailment", "not_entailment"]),
        )
        splits = {"train": [0, 1] * 10, "validation": [1, 0], "test": [-1]}
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"sentence1": texts(len(v)), "sentence2": texts(len(v)), "label": v}, features=features
                )
                for split, v in splits.items()
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", fake)
    glue = GLUE("rte")
    glue.setup()
    assert len(glue.splits["test"]) == 2
    table = TextTable(path="nyu-mll/glue", config="rte", text_column="sentence1", pair_column="sentence2")
    table.setup()
    assert table.task_info is not None
    assert table.task_info.labels == ["entailment", "not_entailment"]
    assert set(table.splits) == {"train", "val"}  # the test labels are hidden
