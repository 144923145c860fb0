"""EntangledLoss: the layer losses of one forward pass, on any network, also if later modules overwrite outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from snngan import EntangledLoss, RelativeTemperature, soft_nearest_neighbor_loss
from snngan.config import ClassifyConfig
from snngan.losses.entangled import hidden_layers
from snngan.losses.temperature import AnnealedTemperature
from snngan.losses.triplet import triplet_loss

LABELS = torch.arange(24) % 3
TRIPLETS = partial(triplet_loss, margin=0.5, distance="cosine")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Apply(nn.Module):
    """Call a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any) -> Any:
        return self.function(inputs)


def perceptron(*, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.LeakyReLU(0.1, inplace), nn.Linear(8, 3)
    )


def linear(*modules: nn.Module | Callable[[Any], Any]) -> nn.Sequential:
    return nn.Sequential(*(each if isinstance(each, nn.Module) else Apply(each) for each in modules), nn.Linear(6, 3))


@pytest.mark.parametrize("inplace", [False, True])
def test_values_agree_with_a_manual_forward_pass(inplace: bool, backend: str) -> None:
    model, inputs = perceptron(inplace=inplace), torch.randn(24, 6)
    criterion = EntangledLoss(model, layers=["0", "1", "2", "3"], alpha=-0.5)
    loss = criterion(inputs, LABELS)
    by_hand: dict[str, Tensor] = {}
    hidden = inputs
    for name, layer in enumerate([model[0], F.relu, model[2], lambda maps: F.leaky_relu(maps, 0.1)]):
        hidden = layer(hidden)
        by_hand[str(name)] = soft_nearest_neighbor_loss(hidden, LABELS, "optimal")
    logits = model[4](hidden)
    cross_entropy = F.cross_entropy(logits, LABELS)
    expected = cross_entropy - 0.5 * torch.stack(list(by_hand.values())).sum()
    assert list(criterion.entanglement) == list(by_hand)
    assert_close(
        criterion.entanglement, {name: value.detach() for name, value in by_hand.items()}, rtol=1e-5, atol=1e-6
    )
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_close((criterion.logits, criterion.cross_entropy), (logits.detach(), cross_entropy.detach()))
    found, wanted = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
    assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_resnet18_agrees_with_copies_of_its_outputs() -> None:
    model, images = torchvision.models.resnet18(num_classes=3).train(), torch.randn(24, 3, 32, 32)
    copies: dict[str, Tensor] = {}
    twin = copy.deepcopy(model)
    for name, module in hidden_layers(twin, ["relu", "layer?.?"]).items():
        module.register_forward_hook(lambda _, inputs, output, name=name: copies.update({name: output.clone()}))
    twin(images)
    criterion = EntangledLoss(model, layers=["relu", "layer?.?"], alpha=0.3)
    criterion(images, LABELS)
    assert list(criterion.entanglement) == list(copies)
    expected = {name: soft_nearest_neighbor_loss(each.detach(), LABELS, "optimal") for name, each in copies.items()}
    assert_close(criterion.entanglement, expected, rtol=1e-4, atol=1e-5)
    every = EntangledLoss(model)
    every(images, LABELS)
    assert len(every.layers) == 9  # the nonlinearity of the stem, and one per block, which runs twice
    assert list(every.entanglement)[:3] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    assert len(every.entanglement) == 17


def test_the_model_runs_once_is_unchanged_and_keeps_no_hooks() -> None:
    model, inputs = perceptron(), torch.randn(24, 6)
    before = copy.deepcopy(model.state_dict())
    criterion = EntangledLoss(model, temperature="learned")
    assert not list(criterion.parameters())
    runs: list[object] = []
    model.register_forward_hook(lambda *_: runs.append(_))
    criterion(inputs, LABELS).backward()
    assert len(runs) == 1
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        EntangledLoss(model)(torch.randn(24, 5), LABELS)
    assert not any(module._forward_hooks for module in model)


def test_alpha_0_is_cross_entropy() -> None:
    model, inputs = perceptron(), torch.randn(24, 6)
    criterion = EntangledLoss(model, alpha=0.0)
    loss = criterion(inputs, LABELS)
    assert_close(loss, F.cross_entropy(model(inputs), LABELS))
    assert not criterion.entanglement
    logits, values = criterion.read(inputs, LABELS)
    assert (list(values), logits.shape) == (["1", "3"], (24, 3))
    criterion.alpha = 2.0
    assert_close(criterion(inputs, LABELS), loss + 2 * sum(values.values()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [-1.0, 1.0])
def test_negative_alpha_entangles_and_positive_alpha_separates(alpha: float) -> None:
    inputs, model = torch.randn(24, 6) + 2 * F.one_hot(LABELS, 6), perceptron()
    criterion = EntangledLoss(model, alpha=alpha)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(25):
        optimizer.zero_grad()
        criterion(inputs, LABELS).backward()
        optimizer.step()
    total = float(sum(criterion.entanglement.values()))
    assert total > 1.7 if alpha < 0 else total < 0.5  # chance is 2 * log(23 / 7) = 2.4


def test_each_layer_has_a_temperature_that_learns_in_training_mode_and_is_saved() -> None:
    model, inputs = perceptron(), torch.randn(24, 6)
    criterion = EntangledLoss(model, temperature="learned")
    criterion(inputs, LABELS)
    first = copy.deepcopy(criterion.state_dict())
    assert len(first) == 2
    criterion.read(inputs, LABELS)
    model.eval()
    criterion(inputs, LABELS)
    assert all(torch.equal(value, first[name]) for name, value in criterion.state_dict().items())
    model.train()
    criterion(inputs, LABELS)
    assert not any(torch.equal(value, first[name]) for name, value in criterion.state_dict().items())
    again = EntangledLoss(model, temperature="learned")
    again.load_state_dict(criterion.state_dict())
    model.eval()
    assert_close(again(inputs, LABELS), criterion(inputs, LABELS))
    annealed = EntangledLoss(model.train(), temperature=AnnealedTemperature(1.0))
    annealed(inputs, LABELS)
    assert [int(value) for value in annealed.state_dict().values()] == [1, 1]


class Swish(nn.SiLU):
    """A user-defined nonlinearity."""


def test_which_layers() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Linear(6, 4), Swish()), nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), nn.Linear(4, 3)
    )
    assert list(hidden_layers(model)) == ["0.1"]
    assert list(hidden_layers(model, "0")) == ["0"]
    assert list(hidden_layers(model, "?*")) == ["0", "1", "2"]  # no dots
    assert list(hidden_layers(model, ["?.0", "0.1"])) == ["0.0", "0.1", "1.0"]
    outer = nn.ModuleDict({"module": perceptron()})  # not a wrapper
    assert list(hidden_layers(outer)) == ["module.1", "module.3"]
    assert list(hidden_layers(nn.DataParallel(outer), "module.?")) == [f"module.{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (nn.Sequential(nn.Linear(6, 4), Apply(F.relu), nn.Linear(4, 3), Apply(partial(F.log_softmax, dim=1))), "0"),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)), "0"),
        (nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3)), "0"),  # has the shape of the logits
    ],
)
def test_without_modules_for_nonlinearities_the_logits_are_left_out(model: nn.Module, layer: str) -> None:
    criterion = EntangledLoss(model, alpha=-0.1)
    criterion(torch.randn(24, 6), LABELS)
    assert list(criterion.entanglement) == [layer]


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (perceptron(), "fc", r"no layer matches 'fc'; the model has: 0, 1, 2, 3, 4"),
        (perceptron(), ["0", "x*"], r"no layer matches 'x\*'"),
        (perceptron(), "4", r"no hidden layer was run: 4"),
        (nn.Flatten(), "*", r"no hidden layer was run: the model has none"),
        (linear(lambda x: (x, x), lambda pair: pair[0]), "0", r"layer 0 must return one tensor, got tuple: leave it"),
        (
            linear(lambda x: x.mean(0), lambda mean: mean.expand(24, 6)),
            "0",
            r"layer 0 must return .* for each of the 24 labels, got float32 \(6,\): leave it out",
        ),
        (nn.Sequential(linear(), Apply(lambda x: (x,))), "0.0", r"the model must return logits \(24, C\), got tuple"),
        (nn.Sequential(linear(), nn.Flatten(0)), "0.0", r"the model must return logits \(24, C\), got \(72,\)"),
    ],
)
def test_unusable_layers_and_outputs_are_refused(model: nn.Module, layers: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EntangledLoss(model, layers)(torch.randn(24, 6), LABELS)


def test_bf16_activations_keep_their_digits(backend: str) -> None:
    model, inputs = perceptron(), torch.randn(24, 6)
    criterion = EntangledLoss(model)
    with torch.autocast("cpu", torch.bfloat16):
        criterion(inputs, LABELS).backward()
        hidden = model[1](model[0](inputs))
    assert hidden.dtype == torch.bfloat16
    expected = soft_nearest_neighbor_loss(hidden.float(), LABELS, "optimal")
    assert_close(criterion.entanglement["1"].float(), expected.detach())


def at_1(layer: Tensor) -> Tensor:
    return soft_nearest_neighbor_loss(layer, LABELS, 1.0)


@pytest.mark.parametrize(
    ("options", "combine"),
    [
        ({"layer_reduction": "sum"}, lambda first, second: at_1(first) + at_1(second)),
        ({"layer_reduction": "mean"}, lambda first, second: (at_1(first) + at_1(second)) / 2),
        ({"layer_reduction": "min"}, lambda first, second: torch.minimum(at_1(first), at_1(second))),
        ({"units": 5}, lambda first, second: at_1(first[:, :5]) + at_1(second[:, :5])),
        ({"layer_loss": TRIPLETS}, lambda *pair: sum(TRIPLETS(layer, LABELS) for layer in pair)),
    ],
    ids=["sum", "mean", "min", "units", "layer_loss"],
)
def test_options_of_the_layer_losses(options: dict[str, Any], combine: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, inputs = perceptron(), torch.randn(24, 6)
    loss = EntangledLoss(model, alpha=2.0, temperature=1.0, **options)(inputs, LABELS)
    first = model[1](model[0](inputs))
    second = model[3](model[2](first))
    assert_close(loss, F.cross_entropy(model[4](second), LABELS) + 2 * combine(first, second))


def test_a_task_replaces_the_cross_entropy() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    images = torch.randn(24, 6)

    def task(output: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(output.flatten(1), inputs)

    criterion = EntangledLoss(model, "1", alpha=0.5, temperature=1.0, task=task)
    loss = criterion(images, LABELS)
    code = model[1](model[0](images))
    error = F.mse_loss(model(images).flatten(1), images)
    assert_close(loss, error + 0.5 * soft_nearest_neighbor_loss(code, LABELS, 1.0))
    assert_close(criterion.cross_entropy, error.detach())
    assert criterion.logits.shape == (24, 2, 3)
    with pytest.raises(ValueError, match=r"the model must return \(25, ...\), got \(24, 2, 3\)"):
        EntangledLoss(model, "1", alpha=0.0, task=task)(images, torch.arange(25) % 3)
    with pytest.raises(ValueError, match=r"the model must return logits \(24, C\), got \(24, 2, 3\)"):
        EntangledLoss(model, "1", alpha=0.0)(images, LABELS)


class Checkpointed(nn.Module):
    """A network whose hidden part uses activation checkpointing of either kind, or none."""

    def __init__(self, use_reentrant: bool | None, *, inplace: bool = False) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return self.head(self.body(inputs))
        return self.head(checkpoint(self.body, inputs, use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": RelativeTemperature(0.1)},
        {"temperature": "optimal", "distance": "cosine"},
        {"layer_loss": partial(triplet_loss, margin=2.0)},
    ],
)
def test_activation_checkpointing_does_not_change_the_gradient(
    options: dict[str, Any], inplace: bool, backend: str
) -> None:
    found = []
    for use_reentrant in (None, False):
        torch.manual_seed(0)
        model = Checkpointed(use_reentrant, inplace=inplace).double()
        criterion = EntangledLoss(model, layers=["body.*"], alpha=-5.0, **options)
        loss = criterion(torch.randn(24, 6, dtype=torch.float64), LABELS)
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("layers", ["*", "body.1", ["body.?", "head"]])
def test_reentrant_checkpointing_is_refused(layers: str | list[str]) -> None:
    criterion = EntangledLoss(Checkpointed(True), layers)
    inputs = torch.randn(24, 6, requires_grad=True)
    with pytest.raises(ValueError, match=r"layer body\.\d is run without gradient, .* use_reentrant=False"):
        criterion(inputs, LABELS)
    criterion.read(inputs, LABELS)
    with torch.no_grad():
        criterion(inputs, LABELS)


@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize("options", [{}, {"distance": "cosine"}, {"layer_loss": triplet_loss}])
def test_samples_with_the_ignored_label_do_not_count(options: dict[str, Any], ignored: int) -> None:
    model, inputs, labels = perceptron(), torch.randn(24, 6), LABELS.clone()
    labels[::2] = ignored
    kept = labels != ignored
    found = []
    for given in ((inputs, labels), (inputs[kept], labels[kept])):
        criterion = EntangledLoss(model, alpha=-0.5, ignore_index=ignored, **options)
        loss = criterion(*given)
        found.append((loss, criterion.entanglement, torch.autograd.grad(loss, list(model.parameters()))))
    assert_close(found[1], found[0])
    assert_close(criterion.read(inputs[kept], labels[kept])[1], criterion.read(inputs, labels)[1])


class Sequences(nn.Module):
    """A transformer encoder over sequences (N, 5, 8), and a head."""

    def __init__(self, activation: nn.Module | None = None, *, batch_first: bool = True) -> None:
        super().__init__()
        more = {} if activation is None else {"activation": activation}
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, **more)  # type: ignore[arg-type]
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, inputs: Tensor) -> Tensor:
        body = self.body(inputs if self.batch_first else inputs.transpose(0, 1))
        return self.head(body.mean(1 if self.batch_first else 0))


def recurrent() -> nn.Module:
    return nn.Sequential(
        nn.GRU(8, 16, batch_first=True), Apply(lambda found: found[0][:, -1]), nn.Linear(16, 12), Apply(torch.relu),
        nn.Linear(12, 3),
    )  # fmt: skip


def parametrized() -> nn.Module:
    normed = nn.utils.parametrizations
    return nn.Sequential(
        nn.Flatten(), normed.weight_norm(nn.Linear(40, 24)), normed.spectral_norm(nn.Linear(24, 8)), nn.Linear(8, 3)
    )


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (Sequences(), ["body.layers.0.linear1", "body.layers.0.linear2"]),
        (Sequences(nn.GELU()), ["body.layers.0.activation"]),
        (recurrent(), ["2"]),
        (parametrized(), ["1", "2"]),  # not the parametrizations, whose outputs are weights
    ],
    ids=["transformer", "transformer with a module for the activation", "recurrent", "parametrized"],
)
def test_the_default_selects_usable_layers_of_any_network(model: nn.Module, layers: list[str]) -> None:
    inputs = torch.randn(24, 5, 8)
    for mode in (True, False):
        criterion = EntangledLoss(model.train(mode), alpha=-1.0)
        criterion(inputs, LABELS).backward()
        assert list(criterion.entanglement) == list(criterion.read(inputs, LABELS)[1]) == layers


@pytest.mark.parametrize("name", ["body.layers.0.self_attn.out_proj", "body.layers.?.self_attn.*"])
def test_a_named_layer_that_never_runs_is_an_error(name: str) -> None:
    model = Sequences()
    for criterion in (EntangledLoss(model, [name]), EntangledLoss(model, ["body.layers.0.linear1", name])):
        for call in (criterion, criterion.read):
            with pytest.raises(ValueError, match=r"the model did not run layer body.layers.0.self_attn.out_proj "):
                call(torch.randn(24, 5, 8), LABELS)


def test_layers_with_the_batch_in_another_dimension_are_named() -> None:
    message = r"a row for each of 24 labels, with the batch as first dimension: body\.layers\.0\.linear1 \(5, 24, 16\)"
    with pytest.raises(ValueError, match=message):
        EntangledLoss(Sequences(batch_first=False))(torch.randn(24, 5, 8), LABELS)


def part_compiled(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(model[0], compiled(model[1]), *model[2:])


compiled = partial(torch.compile, backend="eager")
WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "compiled": compiled,
    "partly compiled": part_compiled,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "averaged and compiled": lambda model: compiled(AveragedModel(model)),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile itself
@pytest.mark.parametrize(
    "wrap", [pytest.param(name, marks=[pytest.mark.slow] if "compiled" in name else []) for name in WRAPPERS]
)
def test_patterns_match_the_names_without_wrappers(wrap: str) -> None:
    inputs, plain = torch.randn(24, 6), perceptron()
    wrapped = WRAPPERS[wrap](copy.deepcopy(plain))
    assert list(hidden_layers(wrapped)) == ["1", "3"]
    reference, criterion = (EntangledLoss(model, ["?"], alpha=-0.5) for model in (plain, wrapped))
    assert_close(criterion(inputs, LABELS), reference(inputs, LABELS))
    assert list(criterion.entanglement) == ["0", "1", "2", "3"]


def test_the_default_lets_a_classifier_learn() -> None:
    inputs = torch.randn(48, 6)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    model = perceptron()
    criterion, optimizer = EntangledLoss(model), torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        criterion(inputs, labels).backward()
        optimizer.step()
    assert float((criterion.logits.argmax(1) == labels).double().mean()) > 0.9
    assert ClassifyConfig().alpha == criterion.alpha
    assert ClassifyConfig().temperature == "optimal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet18"}, "model must be a torch.nn.Module, got str"),
        ({"layers": [nn.ReLU()]}, r"layers must be .\*. or names or patterns of modules, .* got \[ReLU"),
        ({"layers": []}, r"layers must be .* got \[\]"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"distance": "manhattan"}, "distance must be one of"),
        ({"backend": "slow"}, "backend must be one of"),
        ({"alpha": float("nan")}, "alpha must be a finite number, got nan"),
        ({"alpha": "1"}, "alpha must be a finite number, got '1'"),
        ({"layer_reduction": "max"}, "layer_reduction must be one of sum, mean, min, got 'max'"),
        ({"units": 0}, "units must be an integer above 0, got 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EntangledLoss(**{"model": perceptron(), **arguments})
