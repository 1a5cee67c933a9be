"""Other libraries' exact diagonal on the models of :mod:`benchmarks.speed.exact`: right, wrong or crashed, how fast."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed import clock, error
from benchmarks.speed.compare import attempt
from benchmarks.speed.exact import TOLERANCE, beginning, confident
from benchmarks.speed.measure import Entry, diagonal, forward_backward
from benchmarks.speed.models import CPU, Batch
from benchmarks.speed.peers import PEERS, Call, Fisher, asdl_diagonals, averaged, by_layer, zeros

ROWS = {"mlp-confident": "mlp", "cnn-unconfident": "cnn"}


def backpack(model: nn.Module, data: list[Batch]) -> Call:
    """BackPACK's ``DiagGGNExact``."""
    from backpack import backpack as backwards
    from backpack import extend
    from backpack.extensions import DiagGGNExact

    model, criterion = extend(model), extend(nn.CrossEntropyLoss(reduction="sum"))

    def run() -> Fisher:
        sums = zeros(model)
        for inputs, targets in data:
            with backwards(DiagGGNExact()):
                criterion(model(inputs), targets).backward()
            for name, parameter in model.named_parameters():
                sums[name] += parameter.diag_ggn_exact
            model.zero_grad(set_to_none=True)
        return averaged(sums, data)
    return run


def nngeometry(model: nn.Module, data: list[Batch]) -> Call:
    """NNGeometry's closed form for logits."""
    from nngeometry.layercollection import LayerCollection
    from nngeometry.metrics import FIM
    from nngeometry.object.pspace import PMatDiag

    layers = LayerCollection.from_model(model)
    loader = DataLoader(TensorDataset(*map(torch.cat, zip(*data, strict=True))), batch_size=len(data[0][0]))
    return lambda: by_layer(layers, FIM(model, loader, PMatDiag, variant="classif_logits").get_diag())


def asdl(model: nn.Module, data: list[Batch]) -> Call:
    """ASDL's exact Fisher of diagonal shape."""
    from asdl import FISHER_EXACT, LOSS_CROSS_ENTROPY, SHAPE_DIAG, FisherConfig, get_fisher_maker

    maker = get_fisher_maker(model, FisherConfig(
        fisher_type=FISHER_EXACT, fisher_shapes=[SHAPE_DIAG], loss_type=LOSS_CROSS_ENTROPY,
        data_size=sum(len(inputs) for inputs, _ in data)))

    def run() -> Fisher:
        for number, (inputs, _) in enumerate(data):
            maker.setup_logits_repr(maker.setup_model_call(model, inputs))
            maker.forward_and_backward(accumulate=number > 0)
        return asdl_diagonals(model)
    return run


ADAPTERS = {"backpack": backpack, "nngeometry": nngeometry, "asdl": asdl}


def measured(name: str, peer: str, rounds: int | None) -> Entry:
    """One peer on one of the two models."""
    row = CPU[ROWS[name]]
    model, data = confident(row)[:2] if name == "mlp-confident" else (row.model(), row.data(2))
    first = beginning(data)
    truth = error.oracle(row, model, first, "exact")
    make = ADAPTERS[peer]

    def timed() -> Entry:
        times = clock.interleave({
            "forward+backward": forward_backward(row, model, data),
            "ours": diagonal(row, model, data, labels="exact"),
            "ours with tolerance": diagonal(row, model, data, labels="exact", tolerance=TOLERANCE),
            "peer": make(copy.deepcopy(model), data)}, rounds or 5)
        return {"time": clock.ratio(times, "peer", "forward+backward"), "to_ours": clock.ratio(times, "peer", "ours"),
                "to_ours_with_tolerance": clock.ratio(times, "peer", "ours with tolerance")}

    return attempt(PEERS[peer], lambda: make(copy.deepcopy(model), [first]), truth, 0.0, timed)


def missing(key: str) -> list[str]:
    """The peer's package, where it is not installed."""
    peer = PEERS[key.partition("/")[2]]
    return [] if peer.version() else [peer.package]


ENTRIES: dict[str, Callable[[int | None], Entry]] = {
    f"{name}/{peer}": partial(measured, name, peer) for name in ROWS for peer in ADAPTERS}
