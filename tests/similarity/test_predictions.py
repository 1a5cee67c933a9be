"""LEEP and NCE against loops over the papers' formulas, their bounds, and how they are related."""

import math

import pytest
import torch

from forgetting.similarity import leep, nce


def drawn(seed, n=40, source=4, classes=3, sharpness=2.0):
    """Source probabilities and target labels that have something to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, source, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels % source] += 1
    return (sharpness * logits).softmax(1), labels


def conditional(p, labels):
    """P̂(y|z) by the definition, as a dictionary."""
    n, source = p.shape
    joint = {(y, z): sum(float(p[i, z]) for i in range(n) if int(labels[i]) == y) / n
             for y in set(labels.tolist()) for z in range(source)}
    marginal = [sum(value for (_, at), value in joint.items() if at == z) for z in range(source)]
    return {(y, z): value / marginal[z] for (y, z), value in joint.items()}


def slow_leep(p, labels):
    given = conditional(p, labels)
    return sum(math.log(sum(given[int(y), z] * float(row[z]) for z in range(len(row))))
               for row, y in zip(p, labels, strict=True)) / len(p)


def slow_nce(source, labels):
    n, entropy = len(labels), 0.0
    for z in set(source):
        of_z = [y for y, other in zip(labels, source, strict=True) if other == z]
        for y in set(of_z):
            share = of_z.count(y) / len(of_z)
            entropy -= len(of_z) / n * share * math.log(share)
    return -entropy


def entropy(labels):
    counts = labels.bincount().double()
    shares = counts[counts > 0] / len(labels)
    return -float((shares * shares.log()).sum())


def best_log_likelihood(p, labels, steps=3000):
    """max over Q(y|z) of the mean of log Σ_z Q(yᵢ|z) θ(xᵢ)_z, by expectation maximisation; the problem is concave."""
    hot = torch.nn.functional.one_hot(labels).double()
    q = torch.full((hot.shape[1], p.shape[1]), 1 / hot.shape[1], dtype=torch.float64)
    for _ in range(steps):
        responsible = q[labels] * p
        responsible = responsible / responsible.sum(1, keepdim=True)
        q = hot.T @ responsible
        q = q / q.sum(0)
    return float((q[labels] * p).sum(1).log().mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 20.0])
def test_both_are_their_formulas(seed, sharpness):
    p, labels = drawn(seed, sharpness=sharpness)
    assert leep(p, labels) == pytest.approx(slow_leep(p, labels), rel=1e-12)
    source = p.argmax(1)
    assert nce(source, labels) == pytest.approx(slow_nce(source.tolist(), labels.tolist()), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_leep_lies_between_the_labels_entropy_and_the_best_likelihood(seed):
    p, labels = drawn(seed)
    found = leep(p, labels)
    assert -entropy(labels) < found < best_log_likelihood(p, labels) < 0
    assert -entropy(labels) <= nce(p.argmax(1), labels) <= 0


def test_leep_of_decisions_is_nce():
    p, labels = drawn(0)
    hard = torch.nn.functional.one_hot(p.argmax(1), 5).double()  # the fifth class is never predicted
    assert leep(hard, labels) == pytest.approx(nce(p.argmax(1), labels), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_leep_is_above_nce_and_the_likelihood_of_the_decisions(seed):
    """Property 2 of the LEEP paper, with the conditional that LEEP itself estimates."""
    p, labels = drawn(seed)
    decided = p.argmax(1)
    given = conditional(p, labels)
    soft = sum(math.log(given[int(y), int(z)]) for y, z in zip(labels, decided, strict=True)) / len(p)
    assert leep(p, labels) >= soft + float(p.max(1).values.log().mean())


def test_with_counted_frequencies_that_relation_fails():
    p = torch.tensor([[0.51, 0.49], [0.49, 0.51]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    assert nce(p.argmax(1), labels) == 0
    assert leep(p, labels) < 0 + math.log(0.51)


def test_perfect_and_useless_predictions():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert leep(torch.eye(3)[labels], labels) == 0
    assert leep(torch.full((6, 3), 1 / 3), labels) == pytest.approx(-math.log(3), rel=1e-6)
    assert nce(labels, labels) == 0
    assert nce(torch.zeros(6, dtype=torch.long), labels) == pytest.approx(-math.log(3))


def test_class_numbers_are_names():
    p, labels = drawn(1)
    renamed = torch.tensor([70, 3, 9])[labels]
    assert leep(p, renamed) == pytest.approx(leep(p, labels), rel=1e-13)
    source = p.argmax(1)
    assert nce(source * 11, renamed) == pytest.approx(nce(source, labels), rel=1e-13)


def test_low_precision_probabilities_are_taken():
    p, labels = drawn(2)
    assert leep(p.bfloat16(), labels) == pytest.approx(leep(p, labels), abs=5e-3)


def test_logits_are_refused():
    p, labels = drawn(3)
    with pytest.raises(ValueError, match=r"must be probabilities: example \d+ has the sum"):
        leep(p.log(), labels)
    with pytest.raises(ValueError, match=r"softmax"):
        leep(2 * p, labels)
