"""What each TensorBoard tag means, in a line: for TensorBoard and for reports."""

from __future__ import annotations

import re

from snngan.metrics import metric_values

TAGS = {
    "entanglement/input": "loss of samples and held-out images in pixels: log 2 = 0.693 is chance and ideal",
    "entanglement/input_score": "score of samples and held-out images in pixels: higher is better, 1 is ideal",
    "entanglement/real_anchors": "loss of real anchors: log 2 = 0.693 is chance and ideal",
    "entanglement/fake_anchors": "loss of synthetic anchors: log 2 = 0.693 is chance and ideal",
    "entanglement/temperature": "temperature at which the loss in pixels is lowest, in units of squared distance",
    "entanglement/projection": "loss in the learned space: log 2 = 0.693 is chance",
    "loss/generator": "loss of the generator; no direction: depends on the discriminator",
    "loss/discriminator": "loss of the discriminator; no direction: depends on the generator",
    "loss/classifier": "cross-entropy + alpha * loss of the layers, mean over networks; lower is better",
    "loss/cross_entropy": "cross-entropy of training batches, mean over networks; lower is better",
    "samples/fixed_noise": "images of the EMA generator from the same latents at each step",
    "samples/real": "held-out images",
}
FAMILIES = {
    "metrics": "in features of a small classifier",
    "metrics/pixels": "in pixels",
    "accuracy": "higher is better; 1 / number of classes is chance",
    "cross_entropy": "lower is better; log(number of classes) is chance",
    "calibration_error": "lower is better",
    "entanglement/space": "score of samples and held-out images in features trained in: higher is better, 1 is ideal",
    "entanglement/class": "score of samples and held-out images of one class in pixels: higher is better, 1 is ideal",
    "entanglement/test": "log(number of classes) is chance, 0 separates the classes",
    "entanglement/train": "log(number of classes) is chance, 0 separates the classes",
}
"""The same by the part of a tag before its last ``/``; after ``metrics`` the last part is the name of a metric."""


def describe_tag(tag: str) -> str:
    """Return what a metric or a tag measures and its direction or chance level, empty where nothing is known."""
    tag = re.sub("^seed-[0-9]+/", "", tag)
    family, _, last = tag.rpartition("/")
    values = metric_values()
    parts = [TAGS.get(tag, "")]
    if last in values and family in ("", "metrics", "metrics/pixels"):
        parts += [values[last].title, values[last].direction]
    return "; ".join(part for part in (*parts, FAMILIES.get(family, "")) if part)
