"""Classifiers under attack: who is judged by whom, on which images, and that examples transfer from where they say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from reference.rows import bright_rows
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from snngan.data import Dataset, to_unit_range
from snngan.evaluation.attack_evaluation import (
    Judge,
    Trial,
    adversarial,
    calibrating,
    logits_under,
    queries_of,
    trial_of,
)
from snngan.robustness.attack_rule import Attack
from snngan.training.classifier import reading_order

CPU = torch.device("cpu")


def network(seed: int) -> nn.Sequential:
    """Return a linear classifier behind a hidden layer that keeps the images, the classes being brightest rows."""
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


def test_what_calibrates_is_not_asked(rows: Dataset) -> None:
    held = calibrating(rows)
    images, labels = queries_of(rows)
    assert len(held) == len(images) == 150  # at most half of them
    assert rows.test_labels is not None
    order = reading_order(rows.test_images)
    assert torch.equal(held, order[:150])
    assert torch.equal(images, rows.test_images[order[150:]])
    assert torch.equal(labels, rows.test_labels[order[150:]])
    assert len(queries_of(rows, 20)[0]) == 20


def test_a_judge_votes_with_the_nearest_training_images(rows: Dataset) -> None:
    model = network(0).train()
    judge = Judge(model, ["1"], rows, CPU, num_neighbors=15)
    images, labels = queries_of(rows)
    judged = judge(images)
    assert not model.training
    torch.testing.assert_close(judged.logits, model(to_unit_range(images)).detach())
    plain = to_unit_range(rows.train_images).flatten(1).numpy()
    peer = KNeighborsClassifier(15, metric="cosine", algorithm="brute").fit(plain, rows.train_labels)
    votes = peer.predict_proba(to_unit_range(images).flatten(1).numpy())
    clear = torch.from_numpy((votes == votes.max(1, keepdims=True)).sum(1) == 1)
    assert float(clear.double().mean()) > 0.9
    assert torch.equal(judged.vouched.predicted[clear], torch.from_numpy(votes.argmax(1))[clear])
    figures = judged.figures(labels)
    assert figures["dknn_accuracy"] == float((judged.vouched.predicted == labels).double().mean())
    assert figures["accuracy"] == float((judged.logits.argmax(1) == labels).double().mean())
    assert figures["credibility"] == pytest.approx(float(judged.vouched.p_values.max(1).values.mean()))


def test_a_judge_looks_among_so_many_training_images(rows: Dataset) -> None:
    judge = Judge(network(0), ["1"], rows, CPU, points=90, num_neighbors=15)
    kept = reading_order(rows.train_images)[:90]
    torch.testing.assert_close(judge.dknn.layers["1"], to_unit_range(rows.train_images[kept]).flatten(1))
    assert len(judge.dknn.calibration) == 150
    with pytest.raises(ValueError, match="DkNN takes 100 neighbors, and there are 90 training images to look among"):
        Judge(network(0), ["1"], rows, CPU, points=90, num_neighbors=100)


def test_examples_are_made_on_the_source_and_shown_to_the_network(rows: Dataset) -> None:
    victim, source = network(0), network(5)
    images, labels = queries_of(rows)
    trial = Trial(attack="bim", epsilons=(0.1, 0.2), steps=3, count=60)
    (plain, weak, strong), (_, weak_transfer, _) = (
        trial_of(trial, [victim, victim], [by, by], ["1"], rows, (images, labels), CPU) for by in (victim, source)
    )
    assert [row["epsilon"] for row in (plain, weak, strong)] == [0, 0.1, 0.2]
    for row, by, attack in ((plain, victim, None), (weak, victim, Attack("bim", 0.1, 3)),
                            (weak_transfer, source, Attack("bim", 0.1, 3))):  # fmt: skip
        shown = adversarial(by, attack, images[:60], labels[:60], CPU)
        by_hand = float((logits_under(victim, shown, CPU).argmax(1) == labels[:60]).double().mean())
        assert row["figures"]["accuracy"]["values"] == [by_hand, by_hand]
        assert set(row["figures"]) == {"accuracy"}
    means = [row["figures"]["accuracy"]["mean"] for row in (plain, weak_transfer, weak, strong)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[1] > means[2] > means[3]


def test_dknn_judges_every_strength(rows: Dataset) -> None:
    trial = Trial(attack="fgsm", epsilons=(0.3,), dknn=True, count=60, points=200)
    plain, attacked = trial_of(trial, [network(0)], [network(0)], ["1"], rows, queries_of(rows), CPU)
    assert set(plain["figures"]) == {"accuracy", "dknn_accuracy", "credibility", "confidence"}
    assert plain["figures"]["credibility"]["mean"] > attacked["figures"]["credibility"]["mean"]
    (alone,) = trial_of(Trial(dknn=True, count=60, points=200), [network(0)], [network(0)], ["1"], rows,
                        queries_of(rows), CPU)  # fmt: skip
    assert alone == plain


def test_one_image_cannot_both_calibrate_and_be_judged(rows: Dataset) -> None:
    assert rows.test_labels is not None
    small = dataclasses.replace(rows, test_images=rows.test_images[:1], test_labels=rows.test_labels[:1])
    with pytest.raises(ValueError, match="rows has 1 test image; DkNN takes 2, one of them to calibrate by"):
        Judge(network(0), ["1"], small, CPU)


def test_what_is_no_trial() -> None:
    with pytest.raises(ValueError, match="--points are what DkNN looks among"):
        Trial(attack="bim", epsilons=(0.1,), points=100)
    for given in ({"attack": "bim"}, {"epsilons": (0.1,)}):
        with pytest.raises(ValueError, match="an attack and its strengths go together"):
            Trial(**given)
    with pytest.raises(ValueError, match="--attack-steps are of an attack"):
        Trial(steps=3)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        Trial(attack="bim", epsilons=(0.1, 0.0))
