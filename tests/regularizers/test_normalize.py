"""One strength for every matrix: each task's is divided by a number of its own, which the state remembers."""

import io
import logging
import math
import warnings

import pytest
import torch
from torch import nn

from forgetting.curvature import Anchored, Diagonal, Identity
from forgetting.regularizers import EWC, L2SP
from tests.regularizers.small import Weights, importances, move

NORMALIZED = ["mean", "trace"]
STRENGTH = 3.0
every = pytest.mark.parametrize("normalize", NORMALIZED)


def model_of(dtype=torch.float64):
    return Weights(a=torch.zeros(40, 30, dtype=dtype), b=torch.zeros(7, dtype=dtype), c=torch.zeros((), dtype=dtype))


def divided(matrix, normalize):
    """A matrix over its mean or its trace, by hand, and that number."""
    entries = torch.cat([value.double().flatten() for value in matrix.values()])
    divisor = entries.mean() if normalize == "mean" else entries.sum()
    return {name: value.double() / divisor for name, value in matrix.items()}, float(divisor)


def tasks(model, count, scales=(1.0, 1e5, 1e-7)):
    """Matrices whose scales lie far apart, each at a place of its own."""
    for task in range(count):
        move(model, task)
        yield importances(model, 10 + task).scaled(scales[task % len(scales)])


@every
@pytest.mark.parametrize("anchors", ["latest", "separate"])
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_each_task_is_divided_before_it_is_added(normalize, anchors, decay):
    model, parts = model_of(), []
    ewc = EWC(STRENGTH, normalize=normalize, anchors=anchors, decay=decay)
    for matrix in tasks(model, 3):
        ewc.consolidate(model, curvature=matrix)
        anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        parts.append((*divided(matrix, normalize), anchor))
    move(model, 99)
    expected = 0.0
    for age, (values, _, anchor) in enumerate(reversed(parts)):
        at = anchor if anchors == "separate" else parts[-1][2]
        for name, weight in model.named_parameters():
            delta = weight.detach() - at[name]
            expected += 0.5 * STRENGTH * decay**age * float((values[name] * delta.square()).sum())
    assert ewc.penalty(model).item() == pytest.approx(expected, rel=1e-12)
    assert ewc.consolidated.divisors == pytest.approx([divisor for _, divisor, _ in parts], rel=1e-12)


@every
@pytest.mark.parametrize("scale", [1e-20, 1e-4, 1e10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scale_of_a_matrix_does_not_matter(normalize, scale, dtype):
    model, pulls = model_of(torch.float32), []
    matrix = importances(model, 1)
    for factor in (1.0, scale):
        ewc = EWC(STRENGTH, normalize=normalize)
        model = model_of(torch.float32)
        given = Diagonal({name: (value * factor).to(dtype) for name, value in matrix.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1e-20 is next to nothing
            ewc.consolidate(model, curvature=given)
        move(model, 5)
        pulls.append(ewc.pull(model))
    for name in pulls[0]:
        error = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(pulls[1][name], pulls[0][name], rtol=error, atol=0)


def test_a_matrix_in_half_precision_is_divided_in_float32():
    model = model_of(torch.float32)
    ewc = EWC(STRENGTH, normalize="mean")
    ewc.consolidate(model, curvature=Diagonal({"b": torch.tensor([1.0, 2, 3, 4, 5, 6, 9], dtype=torch.bfloat16)}))
    expected = torch.tensor([1.0, 2, 3, 4, 5, 6, 9]) * 7 / 30
    torch.testing.assert_close(ewc.consolidated.curvature["b"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
@every
def test_fewer_bits_hold_what_was_divided(normalize, storage):
    model = model_of(torch.float32)
    whole, short = EWC(STRENGTH, normalize=normalize), EWC(STRENGTH, normalize=normalize, storage=storage, offload=True)
    for matrix in tasks(model, 3):
        for ewc in (whole, short):
            ewc.consolidate(model, curvature=matrix)
    assert short.consolidated.divisors == whole.consolidated.divisors
    move(model, 99)
    assert short.penalty(model).item() == pytest.approx(whole.penalty(model).item(), rel=0.06)


class Network(nn.Module):
    """Two layers and a norm."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.norm, self.head = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.double()

    def forward(self, inputs):
        return self.head(torch.tanh(self.norm(self.body(inputs))))


def batches(size=8, count=24):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return list(zip(inputs.split(size), torch.randint(3, (count,), generator=generator).split(size), strict=True))


@every
def test_kronecker_factors_are_divided_like_a_diagonal(normalize):
    plain, ewc = EWC(STRENGTH, curvature="kronecker"), EWC(STRENGTH, curvature="kronecker", normalize=normalize)
    model = Network()
    for regularizer in (plain, ewc):
        regularizer.consolidate(model, batches())
    trace, count = plain.consolidated.curvature.trace(), sum(weight.numel() for weight in model.parameters())
    divisor = trace / count if normalize == "mean" else trace
    assert ewc.consolidated.divisors == pytest.approx([divisor], rel=1e-12)
    move(model, 3)
    assert ewc.penalty(model).item() == pytest.approx(plain.penalty(model).item() / divisor, rel=1e-12)
    with torch.no_grad():
        model.body.weight.mul_(2.0)
    ewc.consolidate(model, batches())
    assert ewc.consolidated.curvature.trace() == pytest.approx(2 * (count if normalize == "mean" else 1), rel=0.3)


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical", "batched"])
@pytest.mark.parametrize("size", [1, 8, 24])
def test_labels_and_batches_do_not_change_the_trace(labels, size):
    model = Network()
    mean, trace = (EWC(1.0, labels=labels, normalize=normalize) for normalize in NORMALIZED)
    for ewc in (mean, trace):
        ewc.consolidate(model, batches(size))
    assert mean.consolidated.curvature.trace() == pytest.approx(sum(weight.numel() for weight in model.parameters()))
    assert trace.consolidated.curvature.trace() == pytest.approx(1.0)


def test_under_the_mean_a_strength_is_that_of_l2sp():
    model = model_of()
    ewc, l2sp = EWC(STRENGTH, normalize="mean"), L2SP(STRENGTH)
    ewc.consolidate(model, curvature=importances(model, 1))
    l2sp.consolidate(model)
    for weight in model.parameters():
        weight.data.add_(0.1)
    assert ewc.penalty(model).item() == pytest.approx(l2sp.penalty(model).item(), rel=1e-12)
    with pytest.raises(TypeError, match="normalize"):
        L2SP(STRENGTH, normalize="mean")


def test_only_what_is_covered_counts():
    model = model_of()
    ewc = EWC(STRENGTH, normalize="mean", parameters=["b", "c"])
    ewc.consolidate(model, curvature=Diagonal({"a": torch.full((40, 30), 9.0), "b": torch.full((7,), 2.0),
                                               "c": torch.tensor(10.0)}))
    assert ewc.consolidated.divisors == pytest.approx([(7 * 2 + 10) / 8])


def test_one_number_for_a_whole_parameter_counts_for_all_its_weights():
    model = model_of()
    ewc = EWC(STRENGTH, normalize="mean")
    ewc.consolidate(model, curvature=Identity({"b": 2.0, "c": 10.0}))
    assert ewc.consolidated.divisors == pytest.approx([(7 * 2 + 10) / 8])


def test_a_matrix_with_its_anchor_is_divided_too():
    model = model_of()
    matrix = importances(model, 1)
    given = Anchored(matrix, {name: weight.detach() + 1 for name, weight in model.named_parameters()})
    ewc = EWC(STRENGTH, normalize="mean")
    ewc.consolidate(model, curvature=given)
    assert ewc.penalty(model).item() == pytest.approx(0.5 * STRENGTH * sum(w.numel() for w in model.parameters()))


@pytest.mark.parametrize("normalize", ["none", *NORMALIZED])
@pytest.mark.parametrize("anchors", ["latest", "separate"])
def test_zeros_are_left_alone_and_said(normalize, anchors):
    model = model_of()
    ewc = EWC(STRENGTH, normalize=normalize, anchors=anchors)
    nothing = Diagonal({name: torch.zeros_like(weight) for name, weight in model.named_parameters()})
    with pytest.warns(UserWarning, match=r"EWC is inert: its largest importance is 0.0e\+00, so no weight will"):
        ewc.consolidate(model, curvature=nothing)
    move(model, 1)
    assert ewc.consolidated.divisors == (1.0,)
    assert ewc.penalty(model).item() == 0.0
    ewc.consolidate(model, curvature=importances(model, 1))
    second = divided(importances(model, 1), normalize)[1] if normalize != "none" else 1.0
    assert ewc.consolidated.divisors == (1.0, pytest.approx(second))


@every
def test_next_to_nothing_is_divided_and_said(normalize):
    model = model_of()
    ewc = EWC(STRENGTH, normalize=normalize)
    with pytest.warns(UserWarning, match="EWC has next to nothing to hold weights by.*1.0e-13.*rounding errors"):
        ewc.consolidate(model, curvature=Diagonal({"b": torch.full((7,), 1e-13)}))
    assert ewc.consolidated.curvature["b"].sum().item() == pytest.approx(7.0 if normalize == "mean" else 1.0)


@every
def test_the_divisors_are_part_of_the_state(normalize):
    model = model_of()
    ewc, again = EWC(STRENGTH, normalize=normalize), EWC(STRENGTH, normalize=normalize)
    for number, matrix in enumerate(tasks(model, 3)):
        ewc.consolidate(model, curvature=matrix)
        if number == 1:
            file = io.BytesIO()
            torch.save(ewc.state_dict(), file)
            file.seek(0)
            again.load_state_dict(torch.load(file, weights_only=True))
            assert again.consolidated.divisors == ewc.consolidated.divisors
        elif number == 2:
            again.consolidate(model, curvature=matrix)
    move(model, 99)
    assert torch.equal(again.penalty(model), ewc.penalty(model))
    assert again.consolidated.divisors == ewc.consolidated.divisors
    assert len(set(again.consolidated.divisors)) == 3


def test_a_state_of_another_scale_is_refused_and_an_old_one_read():
    model = model_of()
    plain, ewc = EWC(STRENGTH), EWC(STRENGTH, normalize="mean")
    for regularizer in (plain, ewc):
        regularizer.consolidate(model, curvature=importances(model, 1))
    before = ewc.consolidated
    with pytest.raises(ValueError, match="summed with normalize='none', and this EWC has normalize='mean'.*make one"):
        ewc.load_state_dict(plain.state_dict())
    assert ewc.consolidated is before
    old = {key: value for key, value in plain.state_dict().items() if key not in ("normalize", "divisors")}
    again = EWC(STRENGTH)
    again.load_state_dict(old)
    assert again.consolidated.divisors == (1.0,)
    EWC(STRENGTH, normalize="mean").load_state_dict(EWC(STRENGTH).state_dict())  # nothing was summed yet


@pytest.mark.parametrize("method", [EWC, L2SP])
def test_without_normalize_a_task_is_divided_by_1(method):
    model = Network()
    regularizer = method(STRENGTH)
    for _ in range(2):
        regularizer.consolidate(model, batches())
    assert regularizer.consolidated.divisors == (1.0, 1.0)


def test_the_effective_strength_is_logged(caplog):
    model = model_of()
    with caplog.at_level(logging.INFO, logger="forgetting.regularizers"):
        for normalize in ("none", "mean"):
            EWC(8.0, normalize=normalize).consolidate(model, curvature=Diagonal({"b": torch.full((7,), 2.0)}))
    said = [record.getMessage() for record in caplog.records if "divides" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("EWC divides the matrix of task 1 by its mean importance, 2: strength 8 acts as 4 does")


def test_a_name_that_does_not_exist():
    with pytest.raises(ValueError, match="normalize='max' does not exist: choose one of none, mean, trace"):
        EWC(1.0, normalize="max")


def test_an_empty_parameter_has_no_part_in_it():
    model = Weights(a=torch.zeros(2), empty=torch.zeros(0))
    ewc = EWC(1.0, normalize="mean")
    ewc.consolidate(model, curvature=Diagonal({"a": torch.tensor([1.0, 3.0]), "empty": torch.zeros(0)}))
    assert ewc.consolidated.divisors == (2.0,)
    assert math.isfinite(ewc.penalty(model).item())
