"""New labels in one output layer: losses, anchors, corrections, metrics, limits, exactness and the export."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Extend
from sft_lightning.modules import EWCSFT, L2SPSFT, DistillSFT, ExtendSFT, PlainSFT, SFTModule
from sft_lightning.modules.bias_correction import solve_correction
from sft_lightning.networks import build_network
from sft_lightning.networks.joint_head import JointHead
from sft_lightning.tasks.old_and_new import OldAndNew
from tests.refused import refused
from tests.support import (
    HIDDEN,
    NEW,
    OLD,
    Digits,
    FewDigits,
    Recorder,
    fit,
    moved,
    pretrained_mlp,
    quiet_trainer,
    weights,
)

KNOWN = len(OLD)


def few(digits: list[int]) -> FewDigits:
    """Six training images a class."""
    return FewDigits((30, 21, 21), digits, batch_size=32, seed=None)


def both(rehearse: int | str = 3, **settings: Any) -> Extend:
    """Six images a class of the digits 5 to 9, and some of 0 to 4."""
    new, old = few(NEW), few(OLD)
    return Extend(new=new, old=old, **{"rehearse": rehearse, "batch_size": 16, "seed": 0, **settings})


def tuned(folder: str, data: Extend, cls: type[SFTModule] = ExtendSFT, **settings: Any) -> tuple[Any, Recorder]:
    """A module after two steps, and what was recorded of them."""
    recorder = Recorder()
    trainer = {
        n: settings.pop(n) for n in ("accumulate_grad_batches", "max_steps", "limit_val_batches") if n in settings
    }
    module = cls(pretrained_mlp(folder), **{"lr": 1e-2, "optimizer": "SGD", **settings})
    exact = {"precision": "64-true", "max_steps": 2, "limit_val_batches": 0}
    fit(module, data, callbacks=[recorder], **{**exact, **trainer})
    return module, recorder


# ---- golden: the losses in a few lines of plain PyTorch ----


def logits_of(w: dict[str, Tensor], image: Tensor, head: str = "head") -> tuple[Tensor, Tensor]:
    """(old logits, new logits)."""
    hidden = torch.relu(image.flatten(1) @ w["encoder.1.weight"].T + w["encoder.1.bias"])
    x = torch.relu(hidden @ w["encoder.4.weight"].T + w["encoder.4.bias"])
    return x @ w["head.old.weight"].T + w["head.old.bias"], x @ w["head.new.weight"].T + w["head.new.bias"]


def reference(start: dict[str, Tensor], image: Tensor, y: Tensor, of: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients at `start` of the loss that the docstring of ExtendSFT defines, sample by sample."""
    w = {
        n: v.clone().requires_grad_(v.is_floating_point() and not n.startswith("source_head")) for n, v in start.items()
    }
    old, new = logits_of(w, image)
    target, _ = logits_of(start, image)
    target = target + of.get("moved", 0.0)
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(y.tolist()):
        joint, is_old = torch.cat([old[i], new[i]]), label < KNOWN
        if label < 0:
            among, right = old[i], 0  # without a label: only anchored
        elif of["loss_over"] == "all" or (is_old and of["loss_over"] == "new"):
            among, right = joint, label
        else:
            among, right = (old[i], label) if is_old else (new[i], label - KNOWN)
        if label >= 0 and (not is_old or of["old_labels"]):
            total = total - among[right] + among.exp().sum().log()
        if of["anchor_on"] in ("all", "old" if is_old else "new"):
            if of["distance"] == "mse":
                distance = (old[i] - target[i]).square().sum()
            else:
                p, q = (target[i] / 2).softmax(0), (old[i] / 2).softmax(0)
                distance = 4 * (p * (p / q).log()).sum()
            total = total + of["anchor_weight"] * distance
    (total / len(y)).backward()
    return {n: v.grad for n, v in w.items() if v.grad is not None}


CASES: list[dict[str, Any]] = [
    {"loss_over": "all", "anchor_on": "all", "distance": "mse", "old_labels": True},
    {"loss_over": "new", "anchor_on": "all", "distance": "kl", "old_labels": True},
    {"loss_over": "own", "anchor_on": "new", "distance": "mse", "old_labels": True},
    {"loss_over": "all", "anchor_on": "old", "distance": "mse", "old_labels": False},
    {"loss_over": "new", "anchor_on": "old", "distance": "kl", "old_labels": True},
    {"loss_over": "all", "anchor_on": "all", "distance": "mse", "old_labels": True, "pool": True},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_gradients_are_those_of_ten_lines(pretrained: str, case: dict[str, Any]) -> None:
    case = dict(case)
    data = both(pool=few(OLD)) if case.pop("pool", False) else both()
    module, recorder = tuned(pretrained, data, anchor_weight=0.7, **case)
    assert module.network is not None
    start = recorder.weights[0]  # after the first step, so that the anchor is not 0
    batch = recorder.batches[1]
    with torch.no_grad():
        shift = logits_of(recorder.start, batch["x"]["image"])[0] - logits_of(start, batch["x"]["image"])[0]
    expected = reference(start, batch["x"]["image"], batch["y"], {**case, "anchor_weight": 0.7, "moved": shift})
    assert {n for n in expected if not n.startswith("source_head")} == set(recorder.grads[1])
    for name, gradient in recorder.grads[1].items():
        assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-12), name


def test_the_anchor_is_zero_at_the_start_and_only_then(pretrained: str) -> None:
    _, recorder = tuned(pretrained, both(), max_steps=3)
    anchors = [logged["train/loss_anchor"] for logged in recorder.logged]
    assert anchors[0] == 0.0 and anchors[-1] > 0.0


def test_without_anchor_and_over_all_labels_it_is_plain_fine_tuning(pretrained: str) -> None:
    plain, _ = tuned(pretrained, both(), PlainSFT)
    none, _ = tuned(pretrained, both(), loss_over="all", anchor_weight=0.0)
    assert all(torch.equal(v, weights(none)[n]) for n, v in weights(plain).items())


def test_the_solved_correction_is_the_best_scale_and_shift() -> None:
    torch.manual_seed(0)
    y = torch.arange(300) % 7
    logits = torch.randn(300, 7, dtype=torch.float64) + 2 * F.one_hot(y, 7)
    logits[:, 4:] = (logits[:, 4:] + 1.5) * 3  # as if training on new labels alone had blown them up

    def loss(a: float, b: float) -> float:
        z = torch.cat([logits[:, :4], a * logits[:, 4:] + b], 1)
        each = F.cross_entropy(z, y, reduction="none")
        return float(each[y < 4].mean() + each[y >= 4].mean())

    a, b = solve_correction(logits, y, 4)
    assert 0 < a < 1 and b < 0
    assert all(loss(a, b) <= loss(a + da, b + db) for da in (-1e-3, 0, 1e-3) for db in (-1e-3, 0, 1e-3))
    assert solve_correction(logits, y, 4, biased=False)[1] == 0.0


@pytest.mark.parametrize("correction", ["validation", "norms"])
def test_a_correction_acts_in_evaluation_and_never_in_training(pretrained: str, correction: str) -> None:
    plain, _ = tuned(pretrained, both(), limit_val_batches=1.0, max_steps=3)
    module, _ = tuned(pretrained, both(), limit_val_batches=1.0, max_steps=3, correction=correction)
    head = module.network.head
    same = [n for n in weights(plain) if n not in ("head.scale", "head.shift")]
    assert all(torch.equal(weights(plain)[n], weights(module)[n]) for n in same), "it changes what is learned"
    assert float(head.scale) != 1.0
    x = torch.randn(3, HIDDEN[-1], dtype=torch.float64)
    assert torch.allclose(head.eval().plain()(x), head(x)), "one plain layer says the same"
    if correction == "norms":
        lengths = [part.norm(dim=1).mean() for part in (head.old.weight, head.scale * head.new.weight)]
        assert torch.allclose(*lengths)


# ---- what is measured ----


def test_metrics_equal_those_counted_one_by_one() -> None:
    torch.manual_seed(1)
    said, true = torch.randint(7, (200,)), torch.randint(7, (200,))
    meter = OldAndNew(4)
    for part in torch.arange(200).split([64, 1, 135]):
        meter.update(said[part], true[part])
    pairs = list(zip(said.tolist(), true.tolist(), strict=True))
    old, new = [p for p in pairs if p[1] < 4], [p for p in pairs if p[1] >= 4]
    a, b = (sum(s == t for s, t in group) / len(group) for group in (old, new))
    assert {n: float(v) for n, v in meter.compute().items()} == {
        "accuracy_old": a,
        "accuracy_new": b,
        "harmonic": pytest.approx(2 / (1 / a + 1 / b)),
        "old_as_new": sum(s >= 4 for s, _ in old) / len(old),
        "new_as_old": sum(s < 4 for s, _ in new) / len(new),
        "samples_old": len(old),
        "samples_new": len(new),
    }


def test_a_share_over_no_sample_is_left_out() -> None:
    meter = OldAndNew(4)
    meter.update(torch.tensor([0, 5]), torch.tensor([5, 5]))
    assert {n: float(v) for n, v in meter.compute().items()} == {
        "accuracy_new": 0.5,
        "new_as_old": 0.5,
        "samples_old": 0,
        "samples_new": 2,
    }


def test_validation_has_old_and_new_samples_with_their_numbers(pretrained: str) -> None:
    module = PlainSFT(pretrained_mlp(pretrained))
    trainer = fit(module, both(), max_epochs=1)
    values = {n: float(v) for n, v in trainer.callback_metrics.items()}
    assert (values["val/samples_old"], values["val/samples_new"]) == (21, 21)
    mean = (values["val/accuracy_old"] + values["val/accuracy_new"]) / 2
    assert values["val/accuracy"] == pytest.approx(mean), "both groups have as many samples"


# ---- the head ----


def test_the_head_starts_as_the_pretrained_one_beside_fresh_rows(pretrained: str) -> None:
    data = both()
    data.setup()
    network = build_network(pretrained_mlp(pretrained), data.task_info)
    assert isinstance(network.head, JointHead) and isinstance(network.source_head, nn.Linear)
    assert torch.equal(network.head.old.weight, network.source_head.weight)
    assert network.task.labels == [str(d) for d in OLD + NEW] and network.task.known == KNOWN
    sets = network.parameter_sets()
    assert {"head.old.weight", "head.old.bias"} <= sets["shared"].keys()
    assert sets["new"].keys() == {"head.new.weight", "head.new.bias"}


def test_weight_space_anchors_hold_the_old_rows_too(pretrained: str) -> None:
    free, _ = tuned(pretrained, both(), L2SPSFT, alpha=0.0, beta=0.0, max_steps=6)
    held, _ = tuned(pretrained, both(), L2SPSFT, alpha=30.0, beta=0.0, max_steps=6)
    away = [float((m.network.head.old.weight - m.network.source_head.weight).detach().norm()) for m in (free, held)]
    assert 0 < away[1] < 0.5 * away[0]


def test_the_fisher_information_covers_the_old_rows(pretrained: str) -> None:
    """As it covers the kept output layer's weights: the mean over source samples of each one's squared gradient."""
    module = EWCSFT(pretrained_mlp(pretrained), fisher="empirical", fisher_samples=None)
    fit(module, both(), max_steps=1, precision="64-true", limit_val_batches=0, callbacks=[RetentionMonitor(few(OLD))])
    assert module.source is not None and module.teacher is not None
    split: Any = module.source.data.splits["train"]
    w = {n: v.double() for n, v in module.teacher.network.state_dict().items()}
    total = torch.zeros(KNOWN, HIDDEN[-1], dtype=torch.float64)
    for row, label in zip(split.rows.tolist(), split.targets.tolist(), strict=True):
        image = (split.samples.images[row : row + 1].float() / 255).double()
        hidden = torch.relu(image.flatten(1) @ w["encoder.1.weight"].T + w["encoder.1.bias"])
        x = torch.relu(hidden @ w["encoder.4.weight"].T + w["encoder.4.bias"])
        p = (x @ w["source_head.weight"].T + w["source_head.bias"]).softmax(1)
        total += ((p - F.one_hot(torch.tensor([label]), KNOWN)).T @ x).square()
    assert total.any()
    torch.testing.assert_close(module.fisher["head.old.weight"], total / len(split), rtol=1e-9, atol=1e-15)


def test_what_is_kept_is_measured_on_the_old_rows_that_are_exported(pretrained: str) -> None:
    """With a frozen encoder the former output layer would always agree with itself."""
    module, data = PlainSFT(pretrained_mlp(pretrained), lr=0.1, freeze="all-but-head"), both(rehearse=0)
    values = fit(module, data, max_epochs=3).callback_metrics
    head, same = module.network.head.eval(), []
    for raw in data.loader("val", 0, 1):
        batch = data.receive(raw)
        features = module.network.encode(batch["x"])
        same += (head.old(features).argmax(1) == module.network.source_head(features).argmax(1)).tolist()
    assert float(values["retention/agreement"]) == pytest.approx(sum(same) / len(same)) and not all(same)


def test_rows_of_another_task_are_no_labels(pretrained: str, tmp_path: Path) -> None:
    info = TaskInfo("multi_label", KNOWN, [str(d) for d in OLD])
    build_network(pretrained_mlp(None), info).save_pretrained(str(tmp_path))
    with refused("network.pretrained", "multi_label", "classification"):
        fit(PlainSFT(pretrained_mlp(str(tmp_path))), both(), max_steps=1)


def test_new_rows_can_learn_alone(pretrained: str) -> None:
    module, recorder = tuned(pretrained, both(), PlainSFT, freeze=["^encoder", "^head.old"])
    still = [n for n, v in recorder.start.items() if torch.equal(v, weights(module)[n])]
    assert {n for n in recorder.start if n not in still} == {"head.new.weight", "head.new.bias"}


def test_the_export_is_one_ordinary_model_with_one_list_of_labels(pretrained: str, tmp_path: Path) -> None:
    module, _ = tuned(pretrained, both(), correction="norms", limit_val_batches=1.0, max_steps=3)
    network = module.float().network.eval()
    network.save_pretrained(str(tmp_path))
    again = build_network(pretrained_mlp(str(tmp_path)), TaskInfo("classification", 10, network.task.labels))
    assert isinstance(again.source_head, nn.Linear) and again.source_labels == [str(d) for d in OLD + NEW]
    again.head = again.source_head
    about = json.loads((tmp_path / "config.json").read_text())["sft_lightning"]["task"]
    assert about["num_outputs"] == 10 and "known" not in about
    x = {"image": torch.rand(4, 1, 8, 8)}
    assert torch.allclose(again.eval()(x).logits, network(x).logits, atol=1e-5)
    assert isinstance(network.head, JointHead), "writing changes nothing"


def test_the_source_head_of_the_export_says_what_the_tuned_old_rows_say(pretrained: str, tmp_path: Path) -> None:
    module, recorder = tuned(pretrained, both(), max_steps=3)
    assert not torch.equal(recorder.start["head.old.weight"], weights(module)["head.old.weight"])
    network = module.float().network.eval()
    network.save_pretrained(str(tmp_path))
    kept = build_network(pretrained_mlp(str(tmp_path), keep_source_head="source"), TaskInfo("classification", 4, []))
    x = {"image": torch.rand(4, 1, 8, 8)}
    assert kept.source_labels == [str(d) for d in OLD]
    torch.testing.assert_close(kept.eval()(x).source_logits, network(x).source_logits)


# ---- however the work is split ----


@pytest.mark.parametrize("ratio", [None, 0.5], ids=["one set", "ratio"])
def test_micro_batches_train_the_same_network(pretrained: str, ratio: float | None) -> None:
    whole, _ = tuned(pretrained, both(ratio=ratio), max_steps=4, loss_over="own", anchor_weight=0.3)
    parts, _ = tuned(
        pretrained, both(ratio=ratio), max_steps=4, loss_over="own", anchor_weight=0.3, accumulate_grad_batches=4
    )
    assert moved(weights(parts), weights(whole)) < 1e-9


def on_a_rank(rank: int, folder: str, out: str, port: int) -> None:
    """Trains and validates as one of two ranks, and saves the weights and what was measured."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
    distributed.init_process_group("gloo", store=distributed.FileStore(f"{out}/store", 2), rank=rank, world_size=2)
    torch.save(trained(folder, strategy="ddp", devices=2), f"{out}/{rank}.pt")
    distributed.destroy_process_group()


def trained(folder: str, **settings: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights, and metrics, after an epoch of rehearsal with a corrected validation."""
    module = ExtendSFT(pretrained_mlp(folder), lr=1e-2, loss_over="own", optimizer="SGD", correction="validation")
    trainer = fit(module, both(ratio=0.5), max_epochs=1, precision="64-true", **settings)
    return weights(module), {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}


@pytest.mark.slow
def test_two_ranks_train_and_measure_the_same(pretrained: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(on_a_rank, (pretrained, str(tmp_path), port), nprocs=2, start_method="fork")
    one = trained(pretrained)
    for rank in (0, 1):
        of_rank = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert moved(of_rank[0], one[0]) < 1e-9
        assert of_rank[1] == pytest.approx(one[1], rel=1e-9)


def test_a_resumed_run_equals_an_uninterrupted_one(pretrained: str, tmp_path: Path) -> None:
    def module() -> ExtendSFT:
        return ExtendSFT(pretrained_mlp(pretrained), lr=1e-2, correction="validation")

    whole = module()
    fit(whole, both(ratio=0.5), max_epochs=4)
    first = module()
    trainer = fit(first, both(ratio=0.5), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    rest = module()
    fit(rest, both(ratio=0.5), max_epochs=4, seed=1, ckpt_path=str(tmp_path / "two.ckpt"))
    assert all(torch.equal(v, weights(rest)[n]) for n, v in weights(whole).items())


def test_a_checkpoint_is_tested_with_its_correction(pretrained: str, tmp_path: Path) -> None:
    module, data = ExtendSFT(pretrained_mlp(pretrained), lr=1e-2, correction="validation"), both()
    trainer = fit(module, data, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    there = ExtendSFT.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    tests = [quiet_trainer().test(m, datamodule=both(), verbose=False)[0] for m in (module, there)]
    assert tests[0] == tests[1] and "test/accuracy_old" in tests[0]


def test_sounds_of_unequal_lengths_are_padded_together(tmp_path: Path) -> None:
    from tests.exactness.cases import CASES as ALL
    from tests.exactness.cases import FewSounds

    def few(labels: list[str]) -> FewSounds:
        return FewSounds((20, 10, 10), labels, batch_size=32, seed=None)

    folder = ALL["sounds"].pretrain(tmp_path)
    data = Extend(few(["low", "high"]), few([str(d) for d in OLD]), rehearse=2, batch_size=8, seed=0)
    module = ExtendSFT(ALL["sounds"].network(str(folder or tmp_path)))
    trainer = fit(module, data, max_epochs=1)
    assert (trainer.callback_metrics["val/samples_old"], trainer.callback_metrics["val/samples_new"]) == (10, 10)
    assert trainer.callback_metrics["val/loss"].isfinite()


# ---- what is refused ----


REFUSED: list[tuple[Callable[[str], Any], tuple[object, ...]]] = [
    (lambda folder: fit(ExtendSFT(pretrained_mlp(folder)), Digits(classes=NEW)), ("data", "no new labels", "Extend")),
    (
        lambda folder: fit(ExtendSFT(pretrained_mlp(folder), old_labels=False), both(0)),
        ("model.old_labels", "no effect", "data.rehearse"),
    ),
    (lambda folder: fit(PlainSFT(pretrained_mlp(None)), both()), ("network.pretrained", "5 labels")),
    (
        lambda folder: fit(PlainSFT(pretrained_mlp(folder)), Extend(few(NEW), known=["a", "b", "c", "d", "e"])),
        ("data.known", "['0', '1', '2', '3', '4']"),
    ),
    (
        lambda folder: fit(PlainSFT(pretrained_mlp(folder)), Extend(few(NEW), known=["0", "1"])),
        ("data.known", "2 old labels", 5),
    ),
    (lambda folder: fit(PlainSFT(pretrained_mlp(folder)), both(pool=few(OLD))), ("data.pool", "PlainSFT")),
    (
        lambda folder: fit(ExtendSFT(pretrained_mlp(folder), anchor_on="new"), both(pool=few(OLD))),
        ("data.pool", "anchor"),
    ),
    (
        lambda folder: fit(ExtendSFT(pretrained_mlp(folder), old_labels=False), both(0, pool=few(OLD))),
        ("model.old_labels", "no effect", "data.rehearse"),
    ),
    (
        lambda folder: fit(DistillSFT(pretrained_mlp(folder), train_source_head=True), both()),
        ("model.train_source_head", "rows"),
    ),
    (
        lambda folder: fit(ExtendSFT(pretrained_mlp(folder), correction="norms"), both(), limit_val_batches=0),
        ("model.correction", "limit_val_batches"),
    ),
    (lambda folder: ExtendSFT(pretrained_mlp(folder), anchor_weight=-1.0), ("model.anchor_weight", -1.0)),
]


@pytest.mark.parametrize(("asked", "said"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_cannot_be_is_refused(pretrained: str, asked: Callable[[str], Any], said: tuple[object, ...]) -> None:
    with refused(*said):
        asked(pretrained)
