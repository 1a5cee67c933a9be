"""Linear CKA against centred Gram matrices and loops; what it must not see; the unbiased form's expectation."""

import itertools

import pytest
import torch

from forgetting.similarity import cka


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(x, y):
    """⟨HKH, L⟩ / √(⟨HKH, K⟩⟨HLH, L⟩)."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, l = x @ x.T, y @ y.T  # noqa: E741
    inner = [float((centre @ one @ centre * other).sum()) for one, other in ((k, l), (k, k), (l, l))]
    return inner[0] / (inner[1] * inner[2]) ** 0.5


def hsic_1(x, y):
    """The unbiased estimate as an average over ordered quadruples of different examples."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    terms = [float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
             for i, j, q, r in itertools.permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("n", "one", "other"), [(20, 3, 5), (6, 10, 4), (5, 9, 12)])
def test_it_is_its_formula(n, one, other):
    x, y = drawn(n, one) + 3, drawn(n, other, 1)
    y[:, 0] += x[:, 0]
    assert cka(x, y) == pytest.approx(slow(x, y), rel=1e-12)
    assert cka(x, y) == pytest.approx(cka(y, x), rel=1e-12)


def test_the_unbiased_form_is_an_average_over_quadruples():
    x, y = drawn(7, 3) + 2, drawn(7, 4, 1)
    y[:, 0] += x[:, 0]
    expected = hsic_1(x, y) / (hsic_1(x, x) * hsic_1(y, y)) ** 0.5
    assert cka(x, y, unbiased=True) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_it_does_not_see_orthogonal_maps_scales_and_translations(unbiased):
    x = drawn(12, 4)
    turned = torch.linalg.qr(drawn(4, 4, 2))[0]
    assert cka(x, 7 * x @ turned + 100, unbiased=unbiased) == pytest.approx(1, rel=1e-9)
    y = drawn(12, 5, 1)
    assert cka(3 * x @ turned - 1, y, unbiased=unbiased) == pytest.approx(cka(x, y, unbiased=unbiased), rel=1e-9)


def test_it_sees_other_maps():
    x = drawn(50, 4)
    assert cka(x, x * torch.tensor([1.0, 1.0, 1.0, 10.0])) < 0.95


def test_of_few_unrelated_examples_the_unbiased_form_is_about_zero():
    pairs = [(drawn(10, 200, seed), drawn(10, 200, seed + 100)) for seed in range(20)]
    assert min(cka(x, y) for x, y in pairs) > 0.9
    assert abs(sum(cka(x, y, unbiased=True) for x, y in pairs) / 20) < 0.03


def test_float32_far_from_zero():
    x, y = drawn(30, 4), drawn(30, 5, 1)
    y[:, 0] += 3 * x[:, 0]
    assert cka((x + 1e4).float(), (y - 1e4).float()) == pytest.approx(cka(x, y), rel=1e-2)


def test_what_it_cannot_compare():
    with pytest.raises(ValueError, match="5 and 6 rows: CKA compares features of the same examples"):
        cka(drawn(5, 2), drawn(6, 2))
    with pytest.raises(ValueError, match="the second features are the same for all 5 examples"):
        cka(drawn(5, 2), torch.full((5, 2), 1e6 / 3))
    with pytest.raises(ValueError, match="3 examples, at least 4"):
        cka(drawn(3, 2), drawn(3, 2), unbiased=True)
