"""The pages about results say what the results say, and every method has a row on two sequences."""

import pytest

from benchmarks import pages
from benchmarks.retention import table
from forgetting import methods

DIVERGED = {"split-mnist": {"ewc-dr": 9}}
LOSING = {"digits-transfer": {"freeze", "linear-probe", "fisher-freezing", "lwf", "kl"}}  # as the pages say


def test_the_pages_are_what_the_results_say():
    assert not pages.stale(table.PAGES, table.TABLES), "make them anew: python -m benchmarks.retention.table"


def test_every_table_stands_on_a_page():
    assert set().union(*map(pages.names, table.PAGES)) >= set(table.TABLES) - {"chosen-finetune"}


@pytest.mark.parametrize("sequence", table.SEQUENCES)
def test_every_method_has_a_row_of_ten_seeds(sequence):
    seeds = {row["name"]: len(row["seeds"]) for row in table.rows(sequence)}
    assert seeds == {**dict.fromkeys(methods.names(), 10), **DIVERGED.get(sequence, {})}


@pytest.mark.parametrize("sequence", table.SEQUENCES)
def test_what_aims_at_retention_costs_none(sequence):
    bounds = {row["name"]: row["paired"]["retention"]["lower"] for row in table.rows(sequence)
              if row["paired"] and table.aim(row["name"]) == "retention"}
    assert len(bounds) > 20
    assert {name for name, bound in bounds.items() if bound <= -0.01} == LOSING.get(sequence, set())


def test_the_choice_names_every_method():
    named = {name for group in table.SITUATIONS.values() for name in group}
    assert named == set(methods.names()) - {"finetune", "joint"}
