"""One file, nothing from outside, the same bytes again, nothing unescaped; figures named and complete."""

import builtins
import html.parser
import re
import sys

import matplotlib as mpl
import pytest

from forgetting import report
from forgetting.report.page import figure_svg
from tests.report.made import TASKS, made, transfer
from tests.report.stores import one_sweep, sequences, sweeps

LAYERS = {"first.weight": 0.1, "first.bias": 0.5, "norm.weight": 0.0, "head.weight": 0.3}
HOSTILE = '<script>alert("x")</script>&\'$x$'


def rich_results():
    """Every figure has something to show: steps, drift, a curve, a penalty, norm statistics, two strengths, joint."""
    results = []
    for seed in range(3):
        for name, after, extra in (
            ("finetune", 0.5, {}), ("joint", 0.9, {"joint": True}), ("ewc", 0.8, {"settings": {"strength": 1.0}}),
            ("ewc", 0.7, {"settings": {"strength": 0.1}}), ("wise-ft", 0.75, {}),
        ):
            steps = [{"task": 2, "step": step, "loss": 0.1, "accuracy": dict(zip(TASKS, (after, 0.8), strict=True))}
                     for step in (10, 20)]
            curve = [{"task": 2, "amount": amount, "accuracy": [0.9 - 0.4 * amount, 0.8 * amount]}
                     for amount in (0.0, 0.5, 1.0)] if name == "wise-ft" else []
            results.append(made(name, seed, transfer(0.9, after + seed / 100, 0.8), steps=steps, curve=curve,
                                drift=LAYERS, restored=0.85, **extra))
    return results


def written(tmp_path, results, name="page.html"):
    return report.page(results, tmp_path / name).read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and the text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def text_of_rich_page(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), rich_results())


def test_the_page_shows_everything_there_is(text_of_rich_page):
    text = text_of_rich_page
    for words in ("Every method in numbers", "Compared with plain fine-tuning", "While learning", "Provenance",
                  "Accuracy on each task after each task", "How far each layer moved", "What it cost",
                  "What the norm statistics forgot"):
        assert words in text
    assert text.count("<svg") == 1 + 2 + 1 + 4 + 1  # plane, strengths and front, steps, a matrix a method, drift
    assert "ewc (strength 1)" in text
    assert "Plain fine-tuning kept 57" in text  # (0.5 + 0.51 + 0.52) / 3 / 0.9
    assert "NaN" not in text
    assert "None" not in Reader(text).text


def test_strengths_ranks_and_seeds_have_their_places(tmp_path):
    text = written(tmp_path, sweeps(seeds=5))
    for words in ("Over the strength", "highest of 4 candidates over 5 seeds on the validation data of all tasks",
                  "The front between retention and adaptation", "Retention at matched adaptation",
                  "Interquartile means", "seeds for 1 point of retention", "Every strength in numbers",
                  "too few seeds"):
        assert words in text, words
    assert "Over all sequences" not in text
    text = written(tmp_path, sequences(("digits-transfer", "rotated-digits"), seeds=2))
    assert "Over all sequences" in text
    assert "Over the strength" not in text
    assert "Interquartile means" not in text  # two seeds


def test_decimals_of_a_name_are_kept():
    names = "e1-plane", "e1-steps", "e1-matrix-1"
    results = one_sweep("mas", strengths=(1.0, 0.00123, 10.0, 100.0))  # the second is chosen
    assert all("mas (strength 0.00123)" in svg for name, svg in figure_svg(results) if name in names)


def test_nothing_comes_from_outside_and_no_script_is_needed(text_of_rich_page):
    text = text_of_rich_page
    reader = Reader(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "image"} & set(reader.tags)
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            assert value.startswith("#"), (name, value)
        assert not name.startswith("on")
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert "@import" not in text
    assert not re.search(r"https?://", re.sub(r'xmlns(:xlink)?="[^"]*"', "", text))


def test_inner_references_lead_somewhere_and_ids_are_unique(tmp_path):
    thin = [made("finetune", 0, transfer(0.9, 0.5, 0.8), network=name) for name in ("mlp", "cnn")]
    reader = Reader(written(tmp_path, thin))
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for name, value in reader.attributes if name == "xlink:href"}
    used |= set(re.findall(r"url\(#([^)]*)\)", " ".join(value or "" for _, value in reader.attributes)))
    assert used
    assert used <= set(ids)


def test_the_same_results_give_the_same_bytes(tmp_path, text_of_rich_page):
    mpl.rcParams["xtick.major.size"] = 33.0
    try:
        assert written(tmp_path, rich_results(), "again.html") == text_of_rich_page
        assert mpl.rcParams["xtick.major.size"] == 33.0
    finally:
        mpl.rcParams["xtick.major.size"] = mpl.rcParamsDefault["xtick.major.size"]
    assert re.search(r"\d{4}-\d\d-\d\dT", text_of_rich_page) is None
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_hostile_names_are_escaped_everywhere(tmp_path):
    results = [made(HOSTILE, 0, transfer(0.9, 0.5, 0.8), drift={HOSTILE + ".weight": 0.1},
                    tasks=(HOSTILE, "b"), settings={"note": HOSTILE}, provenance={HOSTILE: HOSTILE})]
    text = written(tmp_path, results)
    assert "<script" not in text
    reader = Reader(text)
    assert "script" not in reader.tags
    assert sum(HOSTILE in piece for piece in reader.text) >= 3
    for name, svg in figure_svg(results):
        drawn = [piece for piece in Reader(svg).text if HOSTILE[:20] in piece]
        assert drawn, name
        assert any(piece == HOSTILE for piece in drawn), (name, drawn)


@pytest.mark.parametrize(
    "results",
    [
        [made("finetune", 0, transfer(0.9, 0.5, 0.8))],
        [made("ewc", 0, transfer(0.9, 0.5, 0.8)), made("ewc", 1, transfer(0.9, 0.4, 0.8))],
        [made("finetune", 0, transfer(0.9, 0.5, 0.8)), made("ewc", 1, transfer(0.9, 0.5, 0.8))],
        [made("finetune", 0, transfer(0.0, 0.0, 0.0))],
        [made("finetune", 0, [[0.1], [0.9]], tasks=("only",))],
        [made("finetune", 0, [[0.1] * 14] * 15, tasks=tuple(f"task {i}" for i in range(14)), pretrained=False)],
    ],
    ids=["one run", "one method", "no common seed", "nothing learned", "one task", "fourteen tasks"],
)
def test_thin_results_still_make_a_page(tmp_path, results):
    text = written(tmp_path, results)
    assert "Accuracy on each task after each task" in text
    assert "nan" not in " ".join(Reader(text).text).lower().split()


def test_the_picture_is_png_or_svg_and_repeats(tmp_path):
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        results = rich_results()[:5]
        first = report.save_picture(results, tmp_path / f"a.{suffix}").read_bytes()
        assert first.startswith(start)
        assert report.save_picture(results, tmp_path / f"b.{suffix}").read_bytes() == first
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        report.save_picture(results, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="one picture shows one experiment"):
        report.save_picture([made("ewc", 0, transfer(0.9, 0.5, 0.8), network=name) for name in ("mlp", "cnn")],
                            tmp_path / "c.png")


def test_figures_are_offered_one_by_one():
    names = [name for name, svg in figure_svg(rich_results()[:5]) if svg.startswith("<svg")]
    assert names == ["e1-plane", "e1-strengths", "e1-fronts", "e1-steps", *(f"e1-matrix-{i}" for i in range(1, 5)),
                     "e1-drift"]


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *arguments):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *arguments)

    for name in [name for name in sys.modules if name.startswith("forgetting.report.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("forgetting.report.plots", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"forgetting\[report\]"):
        report.page([made("finetune", 0, transfer(0.9, 0.5, 0.8))], tmp_path / "page.html")


def test_a_publication_comes_first_with_its_verdicts(tmp_path):
    figures = [report.Published("EWC", "99.1 ± 0.2", "98.0 ± 0.1", "✗", "within ± 0.70", "<tried> a higher rate"),
               report.Published("EWC keeps more than SGD", "", "", "✓", "paired difference +1.00 … +2.00")]
    about = report.Publication("Split MNIST", "Somebody 2020, table 1", figures)
    text = report.page(rich_results(), tmp_path / "page.html", publication=about).read_text(encoding="utf-8")
    found = Reader(text)
    shown = " ".join(found.text)
    order = ["Split MNIST: published, and ours", "99.1 ± 0.2", "98.0 ± 0.1", "✗", "<tried> a higher rate",
             "EWC keeps more than SGD", "1 of 2 agree, 1 do not", "Every method in numbers"]
    places = [shown.index(each) for each in order]
    assert places == sorted(places)
    assert "published, and ours" not in written(tmp_path, rich_results())
