"""The two figures hold every arm, told apart without colour, on the axes that they name."""

import pytest

from forgetting.transfer import Budget, Study
from tests.transfer.made import run

pytest.importorskip("matplotlib")

from forgetting.report.plots import look, write
from forgetting.transfer import figures

ARMS = ("finetune", "scratch", "linear-probe")


def study(shares=(0.01, 0.1, 0.3, 1.0), seeds=3):
    made = [run(arm, share, 0.1 * place + 0.2 * share + 0.01 * seed, seed, curve=((0, 0.1), (10, 0.3 + 0.1 * place)))
            for place, arm in enumerate(ARMS) for share in shares for seed in range(seeds)]
    return Study(tuple(made), (), Budget(10, every=10))


def looks(axes):
    return {line.get_label(): (line.get_marker(), str(line._dash_pattern)) for line in axes.get_lines()
            if line.get_label() in ARMS}


def test_accuracy_stands_over_the_logarithm_of_the_labels():
    with look():
        (axes,) = figures.over_labels(study()).axes
    assert axes.get_xscale() == "log"
    found = {line.get_label(): line for line in axes.get_lines()}
    assert list(found["scratch"].get_xdata()) == [10, 100, 300, 1000]
    assert found["scratch"].get_ydata()[-1] == pytest.approx(0.1 + 0.2 + 0.01)
    assert next(text.get_text() for text in axes.get_xticklabels()) == "1 %\n10"
    assert len(axes.collections) == len(ARMS)  # a band each


def test_three_shares_are_drawn_over_steps_with_the_level():
    with look():
        panels = figures.over_steps(study(), 0.4).axes
    assert [axes.get_title("left") for axes in panels] == ["1 % of the labels (10)", "30 % of the labels (300)",
                                                     "100 % of the labels (1000)"]
    assert all(any(list(line.get_ydata()) == [0.4, 0.4] for line in axes.get_lines()) for axes in panels)


def test_arms_are_told_apart_without_colour():
    with look():
        for drawn in (figures.over_labels(study()), figures.over_steps(study())):
            for axes in drawn.axes:
                found = looks(axes)
                assert set(found) == set(ARMS)
                assert len({marker for marker, _ in found.values()}) == len({dash for _, dash in found.values()}) == 3


def test_one_seed_is_drawn_without_a_band(tmp_path):
    with look():
        drawn = figures.over_labels(study(seeds=1))
        write(drawn, tmp_path / "drawn.png")
    assert not drawn.axes[0].collections
    assert (tmp_path / "drawn.png").stat().st_size > 1000
