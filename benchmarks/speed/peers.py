"""Other libraries' empirical diagonal Fisher of the same model on the same batches, each by its own documented way.

An adapter gets a row, a model of its own, and batches; what can be done once (wrapping, hooks) it does at once and
untimed, and returns the call that gives name -> mean over examples of the squared gradients. None is needed to run the
benchmarks: `pip install -r benchmarks/speed/peers.txt` puts them beside torch.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.models import Batch, Row

Fisher = dict[str, Tensor]
Call = Callable[[], Fisher]


def zeros(model: nn.Module) -> Fisher:
    """Sums to begin with."""
    return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}


def averaged(sums: Fisher, data: list[Batch]) -> Fisher:
    """Means over the examples."""
    examples = sum(len(inputs) for inputs, _ in data)
    return {name: value / examples for name, value in sums.items()}


def loop(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """One forward and one backward an example."""
    parameters = dict(model.named_parameters())

    def run() -> Fisher:
        sums = zeros(model)
        for inputs, targets in data:
            for n in range(len(inputs)):
                score = row.loss(model(inputs[n : n + 1]), targets[n : n + 1])
                gradients = torch.autograd.grad(score, list(parameters.values()))
                for name, gradient in zip(parameters, gradients, strict=True):
                    sums[name].addcmul_(gradient, gradient)
        return averaged(sums, data)
    return run


def functorch(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """``torch.func``: vmap of grad over the examples of a batch."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def score(values: Fisher, one: Tensor, target: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, (values, buffers), (one[None],))
        return row.loss(outputs, target[None])

    gradients = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0, 0))

    def run() -> Fisher:
        sums = zeros(model)
        with torch.no_grad():
            for inputs, targets in data:
                for name, gradient in gradients(parameters, inputs, targets).items():
                    sums[name] += gradient.square().sum(0)
        return averaged(sums, data)
    return run


def backpack(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """BackPACK's ``SumGradSquared``; a model that does not run as it is goes through BackPACK's converter."""
    from backpack import backpack as backwards
    from backpack import extend
    from backpack.extensions import SumGradSquared

    criterion = extend(nn.CrossEntropyLoss(reduction="sum"))

    def over(extended: nn.Module, batches: list[Batch]) -> Fisher:
        sums = zeros(extended)
        for inputs, targets in batches:
            with backwards(SumGradSquared()):
                outputs = extended(inputs)
                if row.causal:  # its loss takes one dimension of examples
                    outputs, targets = outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
                criterion(outputs, targets).backward()
            for name, parameter in extended.named_parameters():
                sums[name] += parameter.sum_grad_squared
                del parameter.sum_grad_squared
            extended.zero_grad(set_to_none=True)
        return averaged(sums, batches)

    one = [tuple(value[:1] for value in data[0])]
    try:
        over(extend(copy.deepcopy(model)), one)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        model = extend(model, use_converter=True).eval()
    else:
        model = extend(model)
    return lambda: over(model, data)


def nngeometry(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """NNGeometry's ``PMatDiag`` of the log-likelihood."""
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object.pspace import PMatDiag

    layers = LayerCollection.from_model(model)
    loader = DataLoader(TensorDataset(*map(torch.cat, zip(*data, strict=True))), batch_size=row.batch)

    def run() -> Fisher:
        backend = TorchHooksJacobianBackend(
            model, lambda inputs, targets: -row.loss(model(inputs), targets, "none"), layer_collection=layers)
        return by_layer(layers, PMatDiag(backend, examples=loader).get_diag())
    return run


def by_layer(layers: object, flat: Tensor) -> Fisher:
    """NNGeometry's flat diagonal by our names."""
    from nngeometry.object.vector import PVector

    named = {}
    for layer, values in PVector(layers, vector_repr=flat).to_dict().items():
        kinds = ("weight", "bias")[: len(values)]
        named |= {f"{layer}.{kind}": value for kind, value in zip(kinds, values, strict=True)}
    return named


def asdl(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """ASDL's empirical Fisher of diagonal shape."""
    from asdl import FISHER_EMP, LOSS_CROSS_ENTROPY, SHAPE_DIAG, FisherConfig, get_fisher_maker

    examples = sum(len(inputs) for inputs, _ in data)
    maker = get_fisher_maker(model, FisherConfig(
        fisher_type=FISHER_EMP, fisher_shapes=[SHAPE_DIAG], loss_type=LOSS_CROSS_ENTROPY, data_size=examples))

    def loss(outputs: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        return row.loss(outputs, targets, reduction)

    def run() -> Fisher:
        for number, (inputs, targets) in enumerate(data):
            dummy = maker.setup_model_call(model, inputs)
            maker.setup_loss_call(loss, dummy, targets)
            maker.forward_and_backward(accumulate=number > 0)
        return asdl_diagonals(model)
    return run


def asdl_diagonals(model: nn.Module) -> Fisher:
    """What ASDL left on the modules, by our names."""
    named = {}
    for layer, module in model.named_modules():
        found = getattr(getattr(module, "fisher", None), "diag", None)
        for kind in ("weight", "bias"):
            if getattr(found, kind, None) is not None:
                named[f"{layer}.{kind}"] = getattr(found, kind)
    return named


def opacus(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """Opacus' per-example gradients, squared; it listens in train mode only, so those modules alone are put into it."""
    from opacus.grad_sample import GradSampleModule

    for module in model.modules():
        module.training = any(True for _ in module.parameters(recurse=False))
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")

    def run() -> Fisher:
        sums = zeros(model)
        for inputs, targets in data:
            row.loss(wrapped(inputs), targets).backward()
            for name, parameter in model.named_parameters():
                sums[name] += parameter.grad_sample.square().sum(0)
            wrapped.zero_grad(set_to_none=True)
        return averaged(sums, data)
    return run


def avalanche(row: Row, model: nn.Module, data: list[Batch]) -> Call:
    """Avalanche's own importances, the square of each batch's mean gradient."""
    from avalanche.training.plugins import EWCPlugin

    inputs, targets = map(torch.cat, zip(*data, strict=True))
    dataset = TensorDataset(inputs, targets, torch.zeros(len(inputs), dtype=torch.long))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return row.loss(outputs, targets) / len(outputs)

    def run() -> Fisher:
        found = EWCPlugin(1.0).compute_importances(model, criterion, optimizer, dataset, str(inputs.device), row.batch)
        return {name: importance.data for name, importance in found.items()}
    return run


@dataclass(frozen=True)
class Peer:
    """A library and its adapter."""

    title: str
    package: str
    adapter: Callable[[Row, nn.Module, list[Batch]], Call]

    def version(self) -> str | None:
        """What is installed; None: nothing."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


PEERS = {
    "loop": Peer("single-example loop", "torch", loop),
    "vmap": Peer("`torch.func` vmap(grad)", "torch", functorch),
    "nngeometry": Peer("nngeometry", "nngeometry", nngeometry),
    "backpack": Peer("BackPACK", "backpack-for-pytorch", backpack),
    "opacus": Peer("opacus", "opacus", opacus),
    "asdl": Peer("asdfghjkl (ASDL)", "asdfghjkl", asdl),
    "avalanche": Peer("Avalanche (batched)", "avalanche-lib", avalanche),
}
