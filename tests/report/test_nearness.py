"""Similarity before training beside forgetting after it."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib (extra: report)")

from forgetting import methods, report
from forgetting.protocol import Recipe, Store, sweep
from forgetting.report import Pair, Similarities, similar
from forgetting.report.nearness import headline, over_seeds
from forgetting.similarity import correlations
from tests.protocol import tiny
from tests.report.made import made, transfer

MEASURES = {"leep", "nce", "logme", "h_score", "mmd", "frechet", "proxy_a_distance", "fisher_distance"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """One seed of a pretrained sequence and of one from scratch, the way runs leave them."""
    directory = tmp_path_factory.mktemp("store")
    recipes = [Recipe(name, methods.get("finetune"), epochs=1, pretraining_epochs=2)
               for name in ("digits-transfer", "split-digits")]
    return directory, sweep(recipes, range(1), store=directory).results


def copied(learned, tmp_path):
    return Store(shutil.copytree(learned[0], tmp_path / "copy"))


def test_every_target_is_measured_once(learned, tmp_path, monkeypatch):
    store = copied(learned, tmp_path)
    found = report.similarities(store)
    assert found.left_out == ()
    assert [set(pair.figures) for pair in found.pairs] == [MEASURES] * 5  # one target, and four
    by_name = {result.recipe["sequence"]: result for result in learned[1]}
    for pair in found.pairs:
        R = by_name[pair.sequence.partition(" ")[0]].accuracy
        assert pair.lost == R[pair.number - 1, 0] - R[pair.number, 0]
    monkeypatch.setattr(similar, "_measured", None)  # whoever measured again would fall over it
    assert report.similarities(store) == found
    assert len(list((store.path / "similarity").iterdir())) == 2


def test_the_page_sets_them_side_by_side(learned, tmp_path):
    store = copied(learned, tmp_path)
    found = report.similarities(store)
    text = report.page(store.results(), tmp_path / "page.html", similarities=found).read_text(encoding="utf-8")
    told = correlations([{"mmd": pair.figures["mmd"]} for pair in found.pairs], [pair.lost for pair in found.pairs])
    assert f"ρ = {told['mmd'].coefficient:+.2f} (n = 5 pairs)".replace("-", "−") in text
    assert "How far apart were the tasks" in text


def test_what_cannot_be_measured_is_named(learned, tmp_path):
    store = copied(learned, tmp_path)
    shutil.rmtree(store.path / "shared")
    found = report.similarities(store)
    assert found.pairs == ()
    assert len(found.left_out) == 2
    assert "not in the store" in found.left_out[0]
    own = Store(tmp_path / "own")
    sweep([tiny.recipe()], range(1), store=own)
    assert "tiny" in report.similarities(own).left_out[0]
    (reason,) = report.similarities(Store(tmp_path / "empty")).left_out
    assert reason == "the store holds no plain fine-tuning of several tasks"


def pairs(*points):
    """Pairs of tasks with a distance and what was lost."""
    return tuple(Pair("somewhere", number, 0, {"mmd": x, "leep": -x}, lost)
                 for number, (x, lost) in enumerate(points, 2))


def test_too_few_pairs_are_said_to_be_too_few(tmp_path):
    few = Similarities(pairs((0.1, 0.2), (0.2, 0.3)), ())
    page = report.page([made("finetune", 0, transfer(0.8, 0.4, 0.8))], tmp_path / "page.html", similarities=few)
    text = page.read_text(encoding="utf-8")
    assert "2 pairs of tasks: too few for a rank correlation" in text
    assert "ρ = " not in text
    assert "no correlation is defined" in headline(pairs((0.1, 0.3), (0.2, 0.3), (0.3, 0.3)), {})


def test_the_headline_names_the_best_and_corrects():
    means = pairs((0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.5), (0.5, 0.4))
    told = correlations([pair.figures for pair in means], [pair.lost for pair in means])
    p = min(1, 2 * told["mmd"].p_value)
    assert headline(means, told) == (
        "Of 2 measures taken before training, the MMD orders the forgetting of 5 pairs of tasks best: ρ = +0.90 "
        f"(p = {p:.2g} after Holm's correction: no evidence).")
    backwards = pairs((0.5, 0.1), (0.4, 0.2), (0.3, 0.3))
    told = correlations([pair.figures for pair in backwards], [pair.lost for pair in backwards])
    assert "no measure orders the forgetting as it should" in headline(backwards, told)


def test_seeds_are_averaged():
    two = [Pair("a", 2, seed, {"mmd": value}, lost) for seed, value, lost in ((0, 0.1, 0.2), (1, 0.3, 0.4))]
    (mean,) = over_seeds(two)
    assert (mean.seed, mean.figures["mmd"], mean.lost) == (2, pytest.approx(0.2), pytest.approx(0.3))


def test_recipes_that_differ_are_not_averaged_as_seeds(tmp_path):
    recipes = [Recipe("digits-transfer", methods.get("finetune"), epochs=1, pretraining_epochs=1, rate=rate)
               for rate in (0.001, 0.3)]
    store = Store(tmp_path)
    sweep(recipes, range(2), store=store)
    means = over_seeds(report.similarities(store).pairs)
    assert [pair.seed for pair in means] == [2, 2]
    assert ["learning rate 0.001" in pair.sequence for pair in means] == [True, False]
    assert means[0].lost < means[1].lost
