"""LP-FT against a probe and a fine-tuning written by hand, and across a resume; and the trainable set below it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from sft_lightning.callbacks import LPFT
from sft_lightning.modules import LinearProbe, PlainSFT
from sft_lightning.networks import spec
from tests.refused import refused
from tests.support import NormNet, Recorder, cross_entropy, digits, fit, make, mlp, moved, pretrained_mlp, weights

HEAD, ENCODER = ["head.weight", "head.bias"], [f"encoder.{n}.{kind}" for n in (1, 4) for kind in ("weight", "bias")]
FIRST, STEPS, LR, DECAY, FACTOR = 3, 7, 1e-2, 0.1, 0.5


def by_hand(recorder: Recorder, accumulate: int, alpha: float) -> list[dict[str, Tensor]]:
    """Weights after each step: a linear head on frozen features, then all from there at FACTOR × LR, with L2-SP of α."""
    w = {n: v.clone() for n, v in recorder.start.items()}
    group = lambda names, decayed: {  # noqa: E731
        "params": [w[n].requires_grad_() for n in names if n.endswith("weight") == decayed],
        "weight_decay": DECAY if decayed and not alpha else 0.0,
    }
    optimizer = torch.optim.AdamW([group(HEAD, True), group(HEAD, False)], lr=LR)
    found = []
    for step in range(STEPS):
        window = recorder.batches[step * accumulate : (step + 1) * accumulate]
        image, y = torch.cat([b["x"]["image"] for b in window]), torch.cat([b["y"] for b in window])
        if step == FIRST:
            optimizer.add_param_group(group(ENCODER, True))
            optimizer.add_param_group(group(ENCODER, False))
            for one in optimizer.param_groups:
                one["lr"] = FACTOR * LR
        optimizer.zero_grad()
        cross_entropy(mlp(w, image).logits, y).backward()
        for name in (n for n in w if n.endswith("weight") and w[n].grad is not None):
            start = recorder.start[name] if name in ENCODER else 0.0
            w[name].grad += alpha * (w[name].detach() - start)
        optimizer.step()
        found.append({n: v.detach().clone() for n, v in w.items()})
    return found


@pytest.mark.parametrize(("variant", "accumulate"), [("plain", 1), ("plain", 4), ("l2sp-loss", 1)])
def test_first_a_head_on_frozen_features_then_all_from_there(pretrained: str, variant: str, accumulate: int) -> None:
    """In double precision; after the thaw L2-SP pulls at once, towards the pretrained weights."""
    recorder, alpha = Recorder(), 0.0 if variant == "plain" else 1.0
    anchored = {} if variant == "plain" else {"alpha": alpha, "beta": alpha}
    module = make(variant, pretrained, lr=LR, weight_decay=DECAY, **anchored)
    probing = LPFT(steps=FIRST, lr_factor=FACTOR)
    how: dict[str, Any] = {"max_steps": STEPS, "precision": "64-true", "accumulate_grad_batches": accumulate}
    fit(module, digits(), callbacks=[probing, recorder], **how)
    for step, expected in enumerate(by_hand(recorder, accumulate, alpha), 1):
        found = recorder.weights[step * accumulate - 1]
        error = moved(found, expected)
        assert error < 1e-9, f"after step {step} the weights are off by {error:.1e}"
        still = [n for n in ENCODER if torch.equal(found[n], recorder.start[n])]
        assert still == (ENCODER if step <= FIRST else []), f"after step {step} {still} have not moved"
    assert recorder.logged[-1]["train/lr"] == pytest.approx(FACTOR * LR)


def test_the_first_phase_is_all_but_the_head_frozen_to_the_bit(pretrained_norms: str) -> None:
    """With dropout and BatchNorm: the encoder is in evaluation mode, and back in train mode after it."""
    recorders = Recorder(), Recorder()
    network = spec(NormNet, pretrained=pretrained_norms, dropout=0.3)
    probed = PlainSFT(network)
    fit(probed, digits(), max_steps=5, callbacks=[LPFT(steps=3), recorders[0]])
    fit(PlainSFT(network, freeze="all-but-head"), digits(), max_steps=3, callbacks=[recorders[1]])
    first, frozen = (r.weights[2] for r in recorders)
    different = [n for n, v in frozen.items() if not torch.equal(v, first[n])]
    assert not different, f"after the first phase {different} are not as if frozen"
    last = recorders[0].weights[-1]
    still = [n for n, v in last.items() if torch.equal(v, first[n]) and "source_head" not in n]
    assert not still, f"{still} stood still in the second phase"
    assert probed.network is not None and probed.train().network.encoder.training  # type: ignore[union-attr]


def test_epochs_and_as_many_steps_are_one_run(pretrained: str) -> None:
    runs = []
    for length in ({"epochs": 1}, {"steps": 3}):  # 45 samples in steps of 16
        module = make("distill-logits-mse", pretrained, lr=LR)
        data = digits(shots_per_class=9)
        fit(module, data, max_epochs=3, accumulate_grad_batches=2, callbacks=[LPFT(**length)])
        runs.append(weights(module))
    assert moved(*runs) == 0.0


class Rates(Callback):
    """Learning rate of each parameter at each step."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append({n: g["lr"] for g in optimizer.param_groups for n in g["names"]})


def test_the_schedule_restarts_and_every_layer_has_its_own_rate(pretrained: str) -> None:
    """Warm-up of half the steps, then linear decay: over 8 steps at first, over the 5 that are left from the switch on."""
    rates = Rates()
    module = make(
        "plain",
        pretrained,
        lr=1.0,
        layer_decay=0.1,
        head_lr_factor=2.0,
        lr_schedule="linear",
        warmup=0.5,
        optimizer="SGD",
    )
    fit(module, digits(), max_steps=8, callbacks=[LPFT(steps=3, lr_factor=0.5), rates])
    first, second = [1 / 5, 2 / 5, 3 / 5], [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3]
    for name, base in (("head.weight", 2.0), ("encoder.4.weight", 1.0), ("encoder.1.weight", 0.1)):
        expected = [base * f for f in first] + [0.5 * base * f for f in second]
        assert [r[name] for r in rates.rates] == pytest.approx(expected), name


def test_the_average_of_what_is_thawed_begins_at_the_thaw(pretrained: str) -> None:
    recorder = Recorder()
    module = make("plain", pretrained, lr=LR, ema_decay=0.8, ema_warmup=False)
    fit(module, digits(), max_steps=5, precision="64-true", callbacks=[LPFT(steps=2), recorder])
    for name in [*HEAD, *ENCODER]:
        average = recorder.start[name]
        for step in recorder.weights:
            average = 0.8 * average + 0.2 * step[name]
        begun = recorder.start[name]
        for step in recorder.weights[2:]:
            begun = 0.8 * begun + 0.2 * step[name]
        expected = begun if name in ENCODER else average
        torch.testing.assert_close(weights(module)[name], expected, rtol=1e-10, atol=1e-12, msg=name)


class Client(Callback):
    """Trains these parameter sets from each of these steps on."""

    def __init__(self, plan: dict[int, tuple[str, ...]]) -> None:
        self.plan = plan

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        at = max(step for step in self.plan if step <= trainer.global_step)
        pl_module.trainable.train(pl_module.trainable.of(*self.plan[at]), trainer.global_step)


THAWED = {0: ("shared", "new"), 2: ("new",), 4: ("shared", "new")}


def test_what_is_frozen_does_not_drift_and_begins_again_with_fresh_moments(pretrained: str) -> None:
    """SGD with momentum and weight decay, decoupled L2-SP, and an average: all of them would move a frozen weight."""
    recorder = Recorder()
    sgd: dict[str, Any] = {"optimizer": "SGD", "optimizer_args": {"momentum": 0.9}, "lr": 0.05}
    module = make("l2sp-decoupled", pretrained, **sgd, weight_decay=DECAY, ema_decay=0.8)
    fit(module, digits(), max_steps=6, precision="64-true", callbacks=[Client(THAWED), recorder])
    for name in ENCODER:
        went = [recorder.start[name], *(w[name] for w in recorder.weights)]
        assert not torch.equal(went[1], went[2]), f"{name} stood still before it was frozen"
        assert torch.equal(went[2], went[3]) and torch.equal(went[3], went[4]), f"{name} moved while it was frozen"
    name = "encoder.1.bias"  # spared by weight decay and by L2-SP: momentum alone
    gradient, before, after = recorder.grads[4][name], recorder.weights[3][name], recorder.weights[4][name]
    torch.testing.assert_close(before - after, 0.05 * gradient, rtol=1e-9, atol=1e-12)


def resumed(tmp_path: Path, make_module: Any, callbacks: Any, stop: int, **settings: Any) -> None:
    """Stops after `stop` steps, resumes, and compares all raw weights and the result with an undisturbed run."""
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    recorders = Recorder(), Recorder()
    modules = make_module(), make_module()
    data = {"shots_per_class": 8}  # 3 steps an epoch, the last of 8 samples
    fit(modules[0], digits(**data), callbacks=[*callbacks(), keep, recorders[0]], enable_checkpointing=True, **settings)
    path = str(tmp_path / f"step={stop}.ckpt")
    fit(modules[1], digits(**data), seed=9, ckpt_path=path, callbacks=[*callbacks(), recorders[1]], **settings)
    for back, (one, other) in enumerate(zip(*(reversed(r.weights) for r in recorders), strict=False)):
        different = [n for n, v in one.items() if not torch.equal(v, other[n])]
        assert not different, f"{back} micro-batches before the end {different} differ after a resume at step {stop}"
    assert recorders[1].weights and moved(*map(weights, modules)) == 0.0


@pytest.mark.parametrize("stop", [2, 4, 7], ids=["in the first phase", "at the switch", "in the second phase"])
def test_a_run_resumed_in_either_phase_is_the_undisturbed_one_to_the_bit(
    pretrained_norms: str, tmp_path: Path, stop: int
) -> None:
    """Amid an epoch, in micro-batches, with dropout, BatchNorm, an average and a schedule."""

    def module() -> PlainSFT:
        network = spec(NormNet, pretrained=pretrained_norms, dropout=0.3)
        return PlainSFT(network, lr=LR, ema_decay=0.9, lr_schedule="cosine", warmup=2, layer_decay=0.5)

    probing = lambda: [LPFT(steps=4, lr_factor=0.5)]  # noqa: E731
    resumed(tmp_path, module, probing, stop, max_epochs=3, accumulate_grad_batches=4)


@pytest.mark.parametrize("stop", [3, 5])
def test_a_run_with_a_client_of_its_own_resumes_exactly(pretrained: str, tmp_path: Path, stop: int) -> None:
    module = lambda: make("l2sp-loss", pretrained, lr=LR, ema_decay=0.9)  # noqa: E731
    resumed(tmp_path, module, lambda: [Client(THAWED)], stop, max_epochs=3)


@pytest.mark.parametrize("stop", [2, 5], ids=["in the first phase", "in the second phase"])
@pytest.mark.parametrize("variant", ["l2sp-loss", "l2sp-decoupled"])
def test_anchored_adapters_stand_still_first_and_resume_exactly(
    pretrained: str, tmp_path: Path, variant: str, stop: int
) -> None:
    """Weight decay spares what is anchored, in whatever phase the optimizer is built."""
    lora = {"transforms": [{"class_path": "LoRA", "init_args": {"r": 4, "alpha": 8}}]}
    module = lambda: make(variant, pretrained, network=lora, lr=LR, weight_decay=DECAY)  # noqa: E731
    resumed(tmp_path, module, lambda: [LPFT(steps=4)], stop, max_epochs=3, accumulate_grad_batches=2)
    recorder = Recorder()
    fit(module(), digits(), max_steps=3, callbacks=[LPFT(steps=2), recorder])
    moving = [{n for n, v in w.items() if not torch.equal(v, recorder.start[n])} for w in recorder.weights]
    assert moving[1] == set(HEAD), "more than the new head was trained in the first phase"
    assert any("lora" in n for n in moving[2]) and not moving[2] & set(ENCODER)


def test_a_checkpoint_of_the_first_phase_is_not_resumed_without_lpft(pretrained: str, tmp_path: Path) -> None:
    first = fit(make("plain", pretrained), digits(), max_steps=2, callbacks=[LPFT(steps=1)])
    first.save_checkpoint(tmp_path / "second.ckpt")
    trainer = Trainer(
        accelerator="cpu", max_steps=3, logger=False, callbacks=[LPFT(steps=2)], default_root_dir=tmp_path
    )
    module = make("plain", pretrained)
    trainer.callbacks.append(ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}"))  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=digits())
    with refused("ckpt_path", "2 of 6", "LPFT", "head_warmup"):
        fit(make("plain", pretrained), digits(), max_steps=3, ckpt_path=str(tmp_path / "step=1.ckpt"))
    fit(make("plain", pretrained), digits(), max_steps=3, ckpt_path=str(tmp_path / "second.ckpt"))


def test_the_precision_of_training_may_be_mixed(pretrained: str) -> None:
    module = make("distill-features-cosine", pretrained, lr=LR)
    recorder = Recorder()
    fit(module, digits(), max_steps=4, precision="bf16-mixed", callbacks=[LPFT(steps=2), recorder])
    assert all(torch.equal(recorder.weights[1][n], recorder.start[n]) for n in ENCODER)
    assert not any(torch.equal(recorder.weights[3][n], recorder.start[n]) for n in ENCODER)


def test_a_set_is_chosen_by_the_names_of_parameter_sets_and_layers(pretrained: str) -> None:
    module = make("plain", pretrained, freeze=["encoder.1.bias"])
    fit(module, digits(), max_steps=1)
    trainable, (layer, _) = module.trainable, module.network.layers()[0]  # type: ignore[union-attr]
    assert trainable.of("new") == set(HEAD) and trainable.of("shared") == set(ENCODER) - {"encoder.1.bias"}
    assert trainable.of(layer, "new") == {"encoder.1.weight", *HEAD}
    assert trainable.of("source_head") == set(), "the kept source head may not be trained"
    with refused("trainable.of", "'old'", "encoder.1", "encoder.4", "shared", "new"):
        trainable.of("old")
    with refused("trainable.train", "encoder.1.bias", "model.freeze"):
        trainable.train({*HEAD, "encoder.1.bias"}, 1)
    with refused("trainable.train"):
        trainable.train([], 1)


@pytest.mark.parametrize(
    ("lpft", "settings", "told"),
    [
        ({}, {}, ("LPFT", "epochs", "steps")),
        ({"epochs": 1, "steps": 2}, {}, ("LPFT", "epochs", "steps")),
        ({"epochs": 0}, {}, ("LPFT.epochs", "0")),
        ({"steps": 1.5}, {}, ("LPFT.steps", "1.5")),
        ({"steps": 1, "lr_factor": 0.0}, {}, ("LPFT.lr_factor", "0.0")),
        ({"steps": 4}, {}, ("LPFT", "4", "all-but-head", "epochs")),
        ({"epochs": 1}, {}, ("LPFT", "38", "all-but-head", "epochs")),
        ({"steps": 1}, {"head_warmup": 1}, ("LPFT", "model.head_warmup")),
        ({"steps": 1}, {"freeze": "all-but-head"}, ("LPFT", "freeze")),
        ({"steps": 1}, {"freeze": ["^head"]}, ("LPFT",)),
    ],
)
def test_a_phase_that_would_be_empty_is_refused(
    pretrained: str, lpft: dict[str, Any], settings: dict[str, Any], told: tuple[str, ...]
) -> None:
    with refused(*told):
        fit(make("plain", pretrained, **settings), digits(), max_steps=4, callbacks=[LPFT(**lpft)])


def test_what_has_no_second_phase_is_refused(pretrained: str) -> None:
    with refused("LPFT", "LinearProbe", "PlainSFT"):
        fit(LinearProbe(pretrained_mlp(pretrained)), digits(), max_epochs=2, callbacks=[LPFT(epochs=1)])
    with refused("LPFT", "pretrained"):
        fit(PlainSFT(pretrained_mlp(None)), digits(), max_steps=4, callbacks=[LPFT(steps=1)])
    with refused("trainer.callbacks", "LPFT"):
        fit(make("plain", pretrained), digits(), max_steps=4, callbacks=[LPFT(steps=1), LPFT(steps=2)])
