"""The contract covers the whole package, and its exemptions are not empty words."""

import pytest
import torch

from forgetting.regularizers import Regularizer
from tests.contract.rows import EXEMPT, OUTSIDE, ROWS, VARIANTS, found_classes, make

PROMISES = {"accumulation", "anchored", "autocast", "batches", "order", "quadratic"}


def test_every_regularizer_of_the_package_has_a_row():
    names = {found.__name__ for found in found_classes()}
    assert {"EWC", "L2SP", "MAS", "RWalk", "SI", "LwF", "DER"} <= names == (set(ROWS) - set(VARIANTS)) | set(OUTSIDE)
    assert len(ROWS) == len(names) - len(OUTSIDE) + len(VARIANTS) == 28


def test_whatever_is_no_row_says_why():
    assert set(OUTSIDE).isdisjoint(ROWS)
    assert all(len(reason.split()) > 4 for reason in OUTSIDE.values())


@pytest.mark.parametrize("found", found_classes(), ids=lambda found: found.__name__)
def test_a_strength_alone_makes_a_regularizer(found):
    assert isinstance(found(2), Regularizer)
    assert found(strength=2).strength == 2.0
    assert found.properties <= {"anchored", "quadratic", "linear"}


def test_every_exemption_names_a_row_a_property_and_a_reason():
    for (row, promise), reason in EXEMPT.items():
        assert row in ROWS
        assert promise in PROMISES
        assert len(reason.split()) > 4


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1.0, ValueError, "at least 0"),
        (float("nan"), ValueError, "finite"),
        (float("inf"), ValueError, "finite"),
        ("1e3", TypeError, "is a number"),
        (True, TypeError, "is a number"),
        (None, TypeError, "is a number"),
        (torch.tensor(1.0), TypeError, "is a number"),
    ],
)
def test_a_strength_is_a_finite_number_of_at_least_0(row, value, error, words):
    with pytest.raises(error, match=words):
        make(row, value)
    regularizer = make(row)
    with pytest.raises(error, match=words):
        regularizer.strength = value
    assert regularizer.strength == 3.0
