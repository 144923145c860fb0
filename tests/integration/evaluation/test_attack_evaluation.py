"""Classifiers under attack and DkNN: which images calibrate, which are evaluated, and where attacks are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from reference.rows import bright_rows
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from snngan.data import Dataset, to_unit_range
from snngan.evaluation.attack_evaluation import (
    AttackProtocol,
    DkNNEvaluator,
    calibration_indices,
    compute_logits,
    evaluate_attacks,
    make_adversarial,
    select_queries,
)
from snngan.training.classifier import fixed_permutation

CPU = torch.device("cpu")


def make_network(seed: int) -> nn.Sequential:
    """Return a linear classifier of the brightest rows, after a hidden layer that keeps the images."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Dropout(0.5), nn.Linear(64, 3))
    with torch.no_grad():
        model[3].weight.normal_(0, 0.05)
        for number in range(3):
            model[3].weight[number, 8 * (number + 2) : 8 * (number + 3)] += 1
    return model.eval()


@pytest.fixture
def rows() -> Dataset:
    return bright_rows(600, 300, noise=160, bright=80)


def test_images_that_calibrate_are_not_evaluated(rows: Dataset) -> None:
    held_out = calibration_indices(rows)
    images, labels = select_queries(rows)
    order = fixed_permutation(rows.test_images)
    assert rows.test_labels is not None
    assert torch.equal(held_out, order[:150])  # at most half of them calibrate
    assert torch.equal(images, rows.test_images[order[150:]])
    assert torch.equal(labels, rows.test_labels[order[150:]])
    assert len(select_queries(rows, 20)[0]) == 20


def test_an_evaluator_predicts_by_the_nearest_training_images(rows: Dataset) -> None:
    model = make_network(0).train()
    evaluator = DkNNEvaluator(model, ["1"], rows, CPU, num_neighbors=15)
    images, labels = select_queries(rows)
    prediction = evaluator(images)
    assert not model.training
    torch.testing.assert_close(prediction.logits, model(to_unit_range(images)).detach())
    train = to_unit_range(rows.train_images).flatten(1).numpy()
    peer = KNeighborsClassifier(15, metric="cosine", algorithm="brute").fit(train, rows.train_labels)
    votes = peer.predict_proba(to_unit_range(images).flatten(1).numpy())
    clear = torch.from_numpy((votes == votes.max(1, keepdims=True)).sum(1) == 1)
    assert float(clear.double().mean()) > 0.9
    predicted = torch.from_numpy(votes.argmax(1))
    assert torch.equal(prediction.dknn.predicted[clear], predicted[clear])
    metrics = prediction.metrics(labels)
    assert metrics["dknn_accuracy"] == pytest.approx(float((predicted == labels).double().mean()), abs=0.1)
    assert metrics["accuracy"] == float((prediction.logits.argmax(1) == labels).double().mean())
    assert metrics["credibility"] == pytest.approx(float(prediction.dknn.p_values.max(1).values.mean()))


def test_an_evaluator_searches_as_many_training_images_as_asked(rows: Dataset) -> None:
    evaluator = DkNNEvaluator(make_network(0), ["1"], rows, CPU, num_train_images=90, num_neighbors=15)
    kept = fixed_permutation(rows.train_images)[:90]
    torch.testing.assert_close(evaluator.dknn.layers["1"], to_unit_range(rows.train_images[kept]).flatten(1))
    assert len(evaluator.dknn.calibration) == 150
    with pytest.raises(ValueError, match="DkNN needs at least 100 training images, one for each, got 90"):
        DkNNEvaluator(make_network(0), ["1"], rows, CPU, num_train_images=90, num_neighbors=100)


def test_attacks_are_made_on_the_source_and_shown_to_the_network(rows: Dataset) -> None:
    victim, source = make_network(0), make_network(5)
    images, labels = select_queries(rows, 60)
    protocol = AttackProtocol(attack="bim", epsilons=(0.1, 0.2), steps=3)

    def evaluate(*sources: nn.Module) -> list[dict[str, Any]]:
        return evaluate_attacks(protocol, [victim, victim], sources, ["1"], rows, (images, labels), CPU)

    found = evaluate(victim, source)
    assert [row["epsilon"] for row in found] == [0, 0.1, 0.2]
    for row, attack in zip(found, protocol.attacks(), strict=True):
        accuracies = []
        for by in (victim, source):
            shown = make_adversarial(by, attack, images, labels, CPU)
            accuracies.append(float((compute_logits(victim, shown, CPU).argmax(1) == labels).double().mean()))
        assert {name: value["values"] for name, value in row["metrics"].items()} == {"accuracy": accuracies}
    (plain, _), (weak, transferred), (strong, _) = (row["metrics"]["accuracy"]["values"] for row in found)
    assert plain > transferred > weak > strong
    assert evaluate(victim, victim)[1]["metrics"]["accuracy"]["values"] == [weak, weak]


def test_dknn_evaluates_every_strength(rows: Dataset) -> None:
    def evaluate(**options: Any) -> list[dict[str, Any]]:
        protocol, networks = AttackProtocol(dknn=True, count=60, dknn_count=200, **options), [make_network(0)]
        return evaluate_attacks(protocol, networks, networks, ["1"], rows, select_queries(rows), CPU)

    plain, attacked = (row["metrics"] for row in evaluate(attack="fgsm", epsilons=(0.3,)))
    assert set(plain) == {"accuracy", "dknn_accuracy", "credibility", "confidence"}
    assert plain["credibility"]["mean"] > attacked["credibility"]["mean"]
    assert evaluate()[0]["metrics"] == plain


def test_one_image_cannot_both_calibrate_and_be_evaluated(rows: Dataset) -> None:
    assert rows.test_labels is not None
    small = dataclasses.replace(rows, test_images=rows.test_images[:1], test_labels=rows.test_labels[:1])
    with pytest.raises(ValueError, match="rows must have at least 2 test images, one to calibrate DkNN, got 1"):
        DkNNEvaluator(make_network(0), ["1"], small, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "bim", "epsilons": (0.1,), "dknn_count": 100}, "give --dknn too"),
        ({"attack": "bim"}, "an attack needs strengths and the reverse"),
        ({"epsilons": (0.1,)}, "an attack needs strengths and the reverse"),
        ({"steps": 3}, "give --attack and --epsilon too"),
        ({"count": 3}, "give --attack or --dknn"),
        ({"attack": "bim", "epsilons": (0.1, 0.0)}, "epsilon must be above 0"),
    ],
)
def test_options_that_need_others_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttackProtocol(**options)
