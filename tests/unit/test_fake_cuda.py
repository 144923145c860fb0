"""Everything that computes, on tensors that pretend to be on CUDA: one left on the CPU meets them and raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from reference.runs import CPU, classifier_config, gan_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from snngan import RelativeTemperature, SoftNearestNeighborLoss
from snngan.config import TrainConfig
from snngan.data import Dataset
from snngan.metrics import METRICS, FeatureStatistics
from snngan.models import ARCHITECTURES, CLASSIFIERS
from snngan.objectives import OBJECTIVES
from snngan.objectives.snnl import EntanglementOptions
from snngan.robustness.attacks import ATTACKS
from snngan.robustness.dknn import DkNN
from snngan.selfsupervised import cluster
from snngan.training.classifier import ClassifierTrainer
from snngan.training.gan import GanTrainer
from snngan.training.resolve import resolve
from snngan.training.trainer import Trainer

CUDA = torch.device("cuda:0")
COPYING = {torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor}
"""Operations that may have tensors of both devices, the host's as indices."""
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


class PretendedCuda(FakeTensorMode):
    """Tensors "on CUDA" are FakeTensors, each with a twin on the CPU that has its values."""

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if operation.namespace == "prim":  # the device, the memory layout
            return super().__torch_dispatch__(operation, types, arguments, options)
        options = dict(options or {})
        tensors = [each for each in tree_leaves((arguments, options)) if isinstance(each, Tensor)]
        fakes = {id(each.twin): each for each in tensors if isinstance(each, FakeTensor)}
        device = torch.device(options.get("device") or ("cuda" if fakes else "cpu"))
        left_behind = [each for each in tensors if not isinstance(each, FakeTensor) and each.dim() > 0]
        if fakes and left_behind and operation not in COPYING:
            raise RuntimeError(f"{operation} of tensors on {CUDA} and on the CPU: {left_behind[0].shape}")
        if "device" in options:
            options["device"] = CPU
        arguments, options = tree_map_only(FakeTensor, lambda each: each.twin, (arguments, options))
        found = operation(*arguments, **options)
        if device == CPU:
            return found
        return tree_map_only(Tensor, lambda each: fakes[id(each)] if id(each) in fakes else self.pretend(each), found)

    def pretend(self, twin: Tensor) -> FakeTensor:
        """Return a tensor "on CUDA" with the values of ``twin``."""
        meta = torch.empty_strided(twin.shape, twin.stride(), dtype=twin.dtype, device="meta")
        fake = FakeTensor(self, meta, CUDA)
        fake.twin = twin
        return fake


def move(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Convert the weights and buffers of a module; torch's own way fails for FakeTensors."""
    for each in module.modules():
        for name, weight in each._parameters.items():
            if weight is not None:
                each._parameters[name] = nn.Parameter(convert(weight.detach()), weight.requires_grad)
        for name, buffer in each._buffers.items():
            each._buffers[name] = None if buffer is None else convert(buffer)
    return module


def zero_gradients(outputs: Tensor, inputs: Tensor | Sequence[Tensor], **options: Any) -> list[Tensor]:
    return [torch.zeros_like(each) for each in ([inputs] if isinstance(inputs, Tensor) else inputs)]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PretendedCuda:
    """Pretend that there is a GPU, on which no gradients flow."""
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, pin_memory=False, **options: randn(*size, **options))
    monkeypatch.setattr(nn.Module, "_apply", move)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr(torch.autograd, "grad", zero_gradients)
    monkeypatch.setattr(Tensor, "backward", lambda self: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return PretendedCuda()


def train(trainer: Trainer) -> None:
    trainer.prepare()
    losses = trainer.step(1)
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
    assert trainer.evaluate(1)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("conditional=true",),
        ("r1=1", "r2=1", "diff_augment=color,translation,cutout"),
        ("temperature=optimal", "form=literal", "distance=cosine"),
        ("temperature=learned:1",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_objectives(cuda: PretendedCuda, labeled: Dataset, objective: str, settings: tuple[str, ...]) -> None:
    options = OBJECTIVES[objective].Options
    known = {each.name for each in fields(options)} | {"conditional", "diff_augment"}
    names = {each.partition("=")[0] for each in settings}
    if not names <= known or ("temperature" in names and not issubclass(options, EntanglementOptions)):
        pytest.skip("no such options")
    config = gan_config(labeled, *settings, objective=objective, batch_size=18, augment="flip")
    with cuda:
        train(GanTrainer(config, labeled, CUDA))


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
@pytest.mark.parametrize("conditional", [False, True])
def test_networks(cuda: PretendedCuda, labeled: Dataset, arch: str, conditional: bool) -> None:
    config = TrainConfig(
        dataset=labeled.name, objective="hinge", arch=arch, conditional=conditional, batch_size=6, log_every=1
    )
    with cuda:
        train(GanTrainer(resolve(config, labeled), labeled, CUDA))


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        *((name, {}) for name in CLASSIFIERS.names() if not name.startswith("resnet")),
        pytest.param("resnet15", {}, marks=pytest.mark.slow),  # the others have more of its blocks
        ("cnn-small", {"adversarial_training": "pgd:0.1:2", "seeds": "0,1", "augment": "flip,crop"}),
        ("cnn-small", {"regularizer": "triplet:1"}),
    ],
)
def test_classifiers(cuda: PretendedCuda, labeled: Dataset, arch: str, options: dict[str, Any]) -> None:
    config = classifier_config(labeled, arch=arch, set=(), batch_size=8, **options)
    with cuda:
        train(ClassifierTrainer(config, labeled, CUDA))


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("rule", [1.0, RelativeTemperature(0.1), "optimal", "learned"])
@pytest.mark.parametrize("grouped", [False, True])
def test_loss(cuda: PretendedCuda, backend: Any, rule: Any, grouped: bool) -> None:
    with cuda:
        features, labels = torch.randn(12, 3, device=CUDA), torch.arange(12, device=CUDA) % 2
        criterion = SoftNearestNeighborLoss(rule, backend=backend).to(CUDA)
        assert criterion(features, labels, groups=labels if grouped else None).device.type == "cuda"


@pytest.mark.parametrize("name", METRICS.names())
def test_metrics(cuda: PretendedCuda, name: str) -> None:
    with cuda:
        sets = []
        for _ in range(3):
            images = torch.zeros(8, 1, 4, 4, dtype=torch.uint8, device=CUDA)
            sets.append(FeatureStatistics.from_features(torch.randn(8, 5, device=CUDA), images))
        sets[0].training = sets[2]
        assert METRICS[name].compute(sets[0], sets[1])


@pytest.mark.parametrize("name", ATTACKS.names())
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks(cuda: PretendedCuda, name: str, norm: Any) -> None:
    with cuda:
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(CUDA)
        images, labels = torch.rand(4, 1, 4, 4, device=CUDA), torch.arange(4, device=CUDA) % 3
        options = {} if name == "fgsm" else {"norm": norm}
        assert ATTACKS[name](model, images, labels, 0.1, **options).device.type == "cuda"


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_dknn(cuda: PretendedCuda, distance: Any) -> None:
    with cuda:
        layers, labels = {"fc": torch.randn(9, 4, device=CUDA)}, torch.arange(9, device=CUDA) % 3
        dknn = DkNN(layers, labels, num_classes=3, num_neighbors=2, distance=distance)
        dknn.calibrate(layers, labels)
        assert dknn(layers, ties=torch.Generator()).p_values.device.type == "cuda"


def test_self_supervision(cuda: PretendedCuda) -> None:
    with cuda:
        features = torch.randn(300, 4, device=CUDA)
        assert cluster(features, 2, steps=2).labels.device.type == "cuda"
