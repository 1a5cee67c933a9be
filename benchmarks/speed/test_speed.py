"""The models of :mod:`benchmarks.speed.models` under pytest-benchmark: seconds of process-CPU time, a group a model.

Every round of an estimate is preceded by a plain forward and backward pass, untimed by pytest-benchmark: the median of
their ratios is kept as ``extra_info["ratio"]`` (``--benchmark-json``). The ratios of the tables in docs/speed.md come
from ``python -m benchmarks.speed``, which has more of them: whole data sets, processes of their own, memory, error.
"""

import statistics

import pytest
import torch

import forgetting
from benchmarks.speed.clock import seconds
from benchmarks.speed.measure import diagonal, forward_backward
from benchmarks.speed.models import CPU
from forgetting import fisher

ROUNDS = 5


@pytest.fixture(params=CPU)
def case(request):
    """A row, its model and one batch."""
    row = CPU[request.param]
    if row.missing():
        pytest.skip(f"{row.name} needs {', '.join(row.missing())}")
    return row, row.model(), row.data(1)


cheap = pytest.mark.parametrize("case", ["mlp", "cnn"], indirect=True)


def against_plain(benchmark, plain, call):
    """Benchmark a call with a plain pass before each round, and keep the median ratio."""
    before = []
    benchmark.pedantic(call, setup=lambda: before.append(seconds(plain, "cpu")), rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:
        timed = zip(benchmark.stats.stats.data, before[-ROUNDS:], strict=True)
        benchmark.extra_info["ratio"] = statistics.median(above / below for above, below in timed)


@pytest.mark.benchmark(group="fisher")
def test_forward_backward(benchmark, case):
    benchmark.pedantic(forward_backward(*case), rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="fisher")
def test_empirical(benchmark, case):
    against_plain(benchmark, forward_backward(*case), diagonal(*case))


@pytest.mark.benchmark(group="fisher")
@cheap
@pytest.mark.parametrize("labels", ["sampled", "exact"])
def test_labels(benchmark, case, labels):
    against_plain(benchmark, forward_backward(*case), diagonal(*case, labels=labels))


@pytest.mark.benchmark(group="fisher")
@cheap
@pytest.mark.skipif(not hasattr(fisher, "kronecker"), reason="there are no Kronecker factors yet")
def test_kronecker(benchmark, case):
    from benchmarks.speed.kronecker import factors

    against_plain(benchmark, forward_backward(*case), factors(*case, "kfac"))


def step(row, model, data, optimizer, regularizer=None):
    """A training step, with a penalty in the loss or without."""
    inputs, targets = data[0]
    loss = row.loss(model(inputs), targets) / len(inputs)
    if regularizer is not None:
        loss = loss + regularizer.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.benchmark(group="step")
@cheap
@pytest.mark.parametrize("mode", ["plain", "loss", "gradient", "proximal"])
def test_step(benchmark, case, mode):
    _, model, data = case
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    ewc = forgetting.EWC(1.0, labels="empirical")
    ewc.consolidate(model, data)
    if mode in ("gradient", "proximal"):
        ewc.attach(model, optimizer, mode=mode)
    benchmark(step, *case, optimizer, ewc if mode == "loss" else None)
