"""The pages about results say what the results say, and every method has a row on two sequences."""

import pytest

from benchmarks import pages
from benchmarks.retention import table
from forgetting import methods


def test_the_pages_are_what_the_results_say():
    assert not pages.stale(table.PAGES, table.TABLES), "make them anew: python -m benchmarks.retention.table"


def test_every_table_stands_on_a_page():
    assert set().union(*map(pages.names, table.PAGES)) >= set(table.TABLES) - {"chosen-finetune"}


@pytest.mark.parametrize("sequence", table.SEQUENCES)
def test_every_method_has_a_row_of_ten_seeds(sequence):
    assert {row["name"]: len(row["seeds"]) for row in table.rows(sequence)} == dict.fromkeys(methods.names(), 10)


@pytest.mark.parametrize("sequence", table.SEQUENCES)
def test_what_aims_at_retention_costs_none(sequence):
    bounds = {row["name"]: row["paired"]["retention"]["lower"] for row in table.rows(sequence)
              if row["paired"] and table.aim(row["name"]) == "retention"}
    assert bounds
    assert min(bounds.values()) > -0.01, bounds


def test_the_choice_names_every_method():
    named = {name for group in table.SITUATIONS.values() for name in group}
    assert named == set(methods.names()) - {"finetune", "joint"}
