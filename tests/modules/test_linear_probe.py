"""The linear probe against scikit-learn on the same features; what it leaves alone; what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.data.base import Splits
from sft_lightning.modules import LinearProbe
from sft_lightning.modules.frozen_features import features
from sft_lightning.modules.solve import Linear, Solution, best_of, end_of, path
from sft_lightning.networks import TransformersQA, TransformersText, TransformersTokens, spec
from tests.exactness.cases import FewQuestions, FewSets, FewTags
from tests.networks.tiny import tiny_folder
from tests.refused import refused
from tests.support import NEW, OLD, FewDigits, NormNet, digits, fit, outputs_on, pretrained_mlp, weights


class Values(FewDigits):
    """A number to predict: how dark the digit is."""

    task_name = "regression"

    def load(self) -> Splits:
        loaded = super().load()
        for part in (loaded.train, loaded.val, loaded.test):
            part.targets = part.images.float().mean((1, 2, 3)).numpy() / 64  # type: ignore[union-attr]
        return Splits(loaded.train, loaded.val, loaded.test)


def solved(folder: str, data: Any, **settings: Any) -> tuple[LinearProbe, np.ndarray, np.ndarray]:
    """(a probe that was solved, features and targets that it was solved on)"""
    module = LinearProbe(pretrained_mlp(folder), **settings)
    fit(module, data, max_epochs=7, accumulate_grad_batches=2, gradient_clip_val=1.0)
    output, y = outputs_on(module.network, data, "train")
    return module, output.features.double().numpy(), y.numpy()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("classes", [NEW, [8, 3]], ids=["five classes", "two classes"])
@pytest.mark.parametrize("standardise", [False, True])
def test_the_head_is_the_logistic_regression_that_scikit_learn_finds(
    pretrained: str, classes: list[int], standardise: bool
) -> None:
    data = digits(classes, shots_per_class=15)
    module, x, y = solved(pretrained, data, standardise=standardise)
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0) if standardise else np.full_like(scale, np.sqrt((scale**2).mean()))
    two = len(classes) == 2  # there scikit-learn has one vector, which is the difference of our two: half the penalty
    reference = LogisticRegression(C=(2 if two else 1) / module.found["strength"], tol=1e-10, max_iter=100_000)
    reference.fit((x - mean) / scale, y)
    ours = module.network.head.weight.detach().double().numpy() * scale
    ours = ours - ours.mean(0) if not two else ours[1:] - ours[:1]
    expected = reference.coef_ - reference.coef_.mean(0) if not two else reference.coef_
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max(), "another solution than scikit-learn's"
    output, held = outputs_on(module.network, data, "test")
    test = (output.features.double().numpy() - mean) / scale
    assert float((output.logits.argmax(1) == held).double().mean()) == reference.score(test, held.numpy())
    if not standardise:
        plainly = LogisticRegression(C=(2 if two else 1) * module.found["C"], tol=1e-10, max_iter=100_000).fit(x, y)
        assert np.allclose(plainly.predict_proba(x), reference.predict_proba((x - mean) / scale), atol=1e-3), (
            "run.json's C is not scikit-learn's for the features as they are"
        )


def test_for_values_the_head_is_the_ridge_regression_that_scikit_learn_finds(pretrained: str) -> None:
    data = Values(batch_size=8)
    module, x, y = solved(pretrained, data)
    x = (x - x.mean(0)) / np.sqrt(x.var(0).mean())
    reference = Ridge(alpha=module.found["strength"] / 2, tol=1e-12).fit(x, y)
    output, _ = outputs_on(module.network, data, "train")
    assert np.abs(output.logits[:, 0].numpy() - reference.predict(x)).max() < 1e-4
    assert module.found["by"] == "val/mse"


def test_for_sets_of_labels_the_head_is_a_logistic_regression_for_each_label(tmp_path: Path) -> None:
    module = LinearProbe(
        spec(TransformersText, pretrained=tiny_folder(tmp_path, "bert", "sequence")), strengths=[1.0, 10.0]
    )
    data = FewSets(sizes=(60, 21, 9), labels=("a", "b", "c"))
    fit(module, data, max_epochs=1)
    solved_on = features(module, "train")
    x, y = solved_on.x.numpy(), solved_on.y.numpy()
    x = (x - x.mean(0)) / np.sqrt(x.var(0).mean())
    assert module.found["by"] == "val/f1_micro"
    with torch.no_grad():
        ours = module.network.head(solved_on.x.float()).sigmoid().numpy()
    for label in (0, 1):
        reference = LogisticRegression(C=1 / module.found["strength"], tol=1e-10, max_iter=100_000).fit(x, y[:, label])
        assert np.abs(ours[:, label] - reference.predict_proba(x)[:, 1]).max() < 1e-3, f"label {label}"
    assert ours[:, 2].max() < 0.01, "a label that nobody has is predicted"


def test_what_the_network_knew_is_kept_to_the_bit_and_augmentation_and_dropout_are_off(pretrained_norms: str) -> None:
    results = []
    for settings in ({}, {"augment": ["crop"], "num_workers": 1}):
        module = LinearProbe(spec(NormNet, pretrained=pretrained_norms, dropout=0.5))
        monitor = RetentionMonitor(digits(OLD))
        trainer = fit(module, digits(shots_per_class=10, **settings), max_epochs=3, callbacks=[monitor])
        measured = {n: float(v) for n, v in trainer.callback_metrics.items()}
        for name in ("retention/forgetting", "drift/weights_l2", "drift/kl"):
            assert measured[name] == 0.0, f"{name} {measured[name]}: a probe leaves the pretrained network alone"
        assert measured["retention/accuracy"] == monitor.before["retention/accuracy"]
        assert trainer.global_step == 1 and trainer.max_epochs == 3, (
            "it takes one step, and leaves the trainer's settings"
        )
        for name, held in module.teacher.network.state_dict().items():  # type: ignore[union-attr]
            if not name.startswith("head."):
                assert torch.equal(weights(module)[name], held), f"{name} moved"
        results.append(weights(module)["head.weight"])
    assert torch.equal(*results), "the features are not those that validation sees"


def tried(metrics: dict[float, tuple[float, float]]) -> list[Solution]:
    nothing = Linear(torch.zeros(1, 1), None)
    return [Solution(s, nothing, 0.0, 1, True, m, loss) for s, (m, loss) in sorted(metrics.items())]


def test_the_strength_is_chosen_by_the_metric_then_by_the_lower_loss_and_an_end_is_extended_or_said() -> None:
    assert best_of(tried({0.1: (0.9, 0.5), 1.0: (0.9, 0.4), 10.0: (0.8, 0.1)})).strength == 1.0
    assert best_of(tried({0.1: (float("nan"), 0.0), 1.0: (0.5, 2.0)})).strength == 1.0
    assert end_of(tried({0.1: (0.9, 0.5), 1.0: (0.8, 0.4)})) == "lowest"
    assert end_of(tried({1.0: (0.9, 0.5)})) is None, "one strength leaves nothing to choose"

    def at(strength: float, start: Linear | None) -> Solution:
        return tried({strength: (-abs(np.log10(strength) - 4), 0.0)})[0]

    assert abs(np.log10(best_of(path([0.1, 1.0, 10.0], True, at)).strength) - 4) < 1e-9, "the grid was not extended"
    assert end_of(path([0.1, 1.0, 10.0], False, at)) == "highest", "a grid that was given is kept, and its end is said"
    assert len(path([1.0, 10.0], True, lambda s, _: tried({s: (s, 0.0)})[0])) < 30, "it is extended without end"


def test_select_by_chooses_the_strength_where_it_is_a_metric_of_validation(pretrained: str) -> None:
    module = LinearProbe(pretrained_mlp(pretrained))
    fit(module, digits(shots_per_class=5))
    for asked, name in (
        (None, "accuracy"),
        ("val/f1_macro", "f1_macro"),
        ("drift/kl", "accuracy"),
        ("val/loss", "loss"),
    ):
        module.select_by = asked
        assert module.chosen_by() == (name, -1 if name == "loss" else 1)


def test_a_sample_that_cannot_be_read_is_left_out(pretrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sft_lightning.data.bad_samples import BadSample
    from sft_lightning.data.vision.base import ArrayImages

    whole = ArrayImages.fetch

    def fetch(self: Any, rows: Any, keys: Any, train: bool) -> Any:
        if bad := {int(r): "it was taken" for r in rows if r in (4, 11)}:
            raise BadSample.of(self, bad)
        return whole(self, rows, keys, train)

    monkeypatch.setattr(ArrayImages, "fetch", fetch)
    data = FewDigits(on_bad_sample="skip")
    module = LinearProbe(pretrained_mlp(pretrained))
    fit(module, data)
    assert (module.found["n"], module.found["val_n"]) == (38, 19)
    assert sorted(data.skipped["train"]) == ["sample 11", "sample 4"]


@pytest.mark.parametrize(
    ("network", "settings", "trainer", "key", "values"),
    [
        ({"pretrained": None}, {}, {}, "network.pretrained", ["LinearProbe"]),
        ({}, {"strengths": [1.0, 1.0]}, {}, "model.strengths", [[1.0, 1.0]]),
        ({}, {"strengths": [-1.0]}, {}, "model.strengths", [[-1.0]]),
        ({}, {}, {"limit_train_batches": 1}, "trainer.limit_train_batches", [1, "LinearProbe"]),
        ({}, {}, {"limit_val_batches": 0}, "data", ["val samples", "LinearProbe", "trainer.limit_val_batches"]),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(
    pretrained: str,
    network: dict[str, Any],
    settings: dict[str, Any],
    trainer: dict[str, Any],
    key: str,
    values: list[object],
) -> None:
    with refused(key, *values):
        fit(LinearProbe(pretrained_mlp(pretrained, **network), **settings), digits(), **trainer)


def test_a_random_layer_inside_the_encoder_and_a_language_model_are_refused() -> None:
    from sft_lightning.core.structures import TaskInfo
    from sft_lightning.networks import MLP, TransformersLM

    network = MLP(TaskInfo("classification", 3), in_features=4, hidden=[5])
    network.pretrained, network.fresh = "weights", {"1.weight"}
    with refused("network.pretrained", "encoder.1.weight", "LinearProbe", "network.init_args.pooling"):
        LinearProbe(spec(MLP)).check_network(network)
    with refused("model", "LinearProbe", "language model", "PlainSFT"):
        LinearProbe(spec(MLP)).check_network(TransformersLM.__new__(TransformersLM))


def test_tags_are_chosen_by_entities_of_whole_sentences(tmp_path: Path) -> None:
    """The entity score that chose the strength is the one that validation measures, sentence by sentence."""
    data = FewTags(sizes=(40, 21, 5), eval_batch_size=4)
    data.metrics = ["entity_f1"]
    module = LinearProbe(spec(TransformersTokens, pretrained=tiny_folder(tmp_path, "bert", "none")))
    trainer = fit(module, data, max_epochs=1)
    (chosen,) = [t for t in module.found["tried"] if t["strength"] == module.found["strength"]]
    assert module.found["by"] == "val/entity_f1" and chosen["entity_f1"] > 0
    assert float(trainer.callback_metrics["val/entity_f1"]) == pytest.approx(chosen["entity_f1"], abs=1e-6)


def test_a_probe_of_questions_is_where_their_loss_is_lowest_and_is_chosen_by_answers(tmp_path: Path) -> None:
    data = FewQuestions(sizes=(30, 21, 5), eval_batch_size=4, group_by_length=False)
    module = LinearProbe(spec(TransformersQA, pretrained=tiny_folder(tmp_path, "bert", "none")), strengths=[0.1, 1.0])
    trainer = fit(module, data, max_epochs=1)
    (chosen,) = [t for t in module.found["tried"] if t["strength"] == module.found["strength"]]
    assert float(trainer.callback_metrics["val/f1"]) == pytest.approx(chosen["f1"], abs=1e-6)
    network, task, split = module.network.double().eval(), module.task, data.splits["train"]
    total, features = torch.zeros((), dtype=torch.float64), []
    for position in range(len(split)):
        output = network(split[position]["x"], split[position]["select"])
        total = total + task.loss(output, split[position]).total
        features.append(output.features.detach())
    scale = torch.cat(features).std(0, correction=0).square().mean().sqrt()
    (gradient,) = torch.autograd.grad(total, network.head.weight)
    pull = module.found["strength"] * network.head.weight.detach() * scale**2
    assert float((gradient + pull).norm()) < 1e-4 * float(pull.norm()), "the loss with its penalty has a gradient left"
