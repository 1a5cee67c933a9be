"""``forgetting run`` on a pretrained network of the user's: whole runs, folders, the listing, and what is refused."""

import pytest

from forgetting.cli import given
from forgetting.protocol import Store
from forgetting.tasks import given as sequences
from forgetting.tasks.corruptions import KINDS
from forgetting.tasks.given import GIVEN
from forgetting.tasks.sizes import Sizes
from tests.cli.test_run import call, refused
from tests.retention import made
from tests.tasks.test_clip import write as write_clip
from tests.tasks.test_labelled import write
from tests.tasks.test_texts import write as write_encoder

pytest.importorskip("timm", reason="timm is not installed (extra: vision)")
NETWORK = ("--network", "test_efficientnet", "--weights", "none", "--pixels", 32, "--train", 8)
QUICK = ("--seeds", 1, "--set", "recipe.epochs=1", "--set", "recipe.batch=4")


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    made.images(monkeypatch, tmp_path / "data")
    monkeypatch.setitem(sequences.SIZES, "images", Sizes(validation=4, test=4, source_test=8))


def photos(place, *names):
    for number, name in enumerate(names):
        write(place, name, count=20, size=(40, 36), grey=60 * number)
    return place


def test_a_classifier_by_name_learns_and_is_asked_again(tmp_path):
    result = call("run", "images-targets", *NETWORK, *QUICK, "--methods", "finetune,l2sp", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "test_efficientnet-targets" in result.output
    runs = Store(tmp_path / "out").results()
    assert {run.method for run in runs} == {"finetune", "l2sp"}
    for run in runs:
        assert run.tasks == ("source (agreement)", "CIFAR-10", "Fashion-MNIST", "MNIST")
        assert run.accuracy[0, 0] == 1.0
        assert (run.recipe["momentum"], run.recipe["rate"], run.recipe["batch"]) == (0.9, 0.001, 4)


def test_labelled_folders_and_a_shift_of_them(tmp_path):
    source = photos(tmp_path / "photos", "0_red", "3")
    result = call("run", "images-corruption", *NETWORK, *QUICK, "--source", source, "--methods", "finetune", "--out",
                  tmp_path / "out")
    assert result.exit_code == 0, result.output
    (run,) = Store(tmp_path / "out").results()
    assert run.tasks == ("source (labels)", *(f"source under {kind}" for kind in KINDS))


def test_clip_knows_the_folders_by_their_names(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
    place = tmp_path / "clip"
    place.mkdir()
    source = photos(tmp_path / "photos", "207_golden retriever", "tabby_cat")
    options = given.Options(network=f"clip:{write_clip(place)}", source=source, train=8)
    found = given.fields("images-targets", options)
    assert found["network"].labels == ("golden retriever", "tabby cat")
    assert found["sequence"][0].outputs == (0, 1)
    assert found["sequence"].input_shape == (3, 16, 16)
    dry = ("run", "images-targets", "--methods", "wise-ft", "--out", tmp_path / "out", "--dry-run")
    assert call(*dry, "--network", options.network, "--train", 8).exit_code == 0
    assert "--pixels: has no meaning for a CLIP" in refused(*dry, "--network", options.network, "--pixels", 64)


def test_a_sentence_encoder_by_its_folder(monkeypatch, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
    made.texts(monkeypatch, tmp_path / "texts")
    monkeypatch.setattr("forgetting.tasks.texts.SENTENCES", 5)
    monkeypatch.setitem(sequences.SIZES, "texts", Sizes(validation=4, test=4, source_test=8))
    place = tmp_path / "encoder"
    place.mkdir()
    result = call("run", "texts-targets", "--network", write_encoder(place), "--train", 8, *QUICK, "--methods",
                  "finetune", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (run,) = Store(tmp_path / "out").results()
    assert run.tasks == ("source (agreement)", "World and Sports", "Business and Sci/Tech")
    assert (run.recipe["optimizer"], run.accuracy[0, 0]) == ("adamw", 1.0)


def test_a_language_model_by_its_folder(monkeypatch, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
    made.texts(monkeypatch, tmp_path / "texts")
    monkeypatch.setitem(sequences.SIZES, "language", Sizes(validation=2, test=3, source_test=4))
    monkeypatch.setattr(given, "WINDOW", 6)
    place = made.decoder(tmp_path / "gpt", list("abcdefghijklmnop"))
    result = call("run", "language-targets", "--network", place, "--train", 8, *QUICK, "--methods", "finetune,wise-ft",
                  "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    runs = Store(tmp_path / "out").results()
    assert [run.tasks for run in runs] == [("WikiText-2", "Shakespeare", "AG News")] * 2
    assert call("report", tmp_path / "out").exit_code == 0


def test_the_listing_says_what_they_need():
    listed = " ".join(call("list", "sequences").output.split())
    assert all(name in listed for name in GIVEN)
    assert "needs --network: an image classifier" in listed
    assert "needs --network: a sentence encoder" in listed
    assert "needs --network: a causal language model" in listed


@pytest.mark.parametrize(("sequence", "words", "said"), [
    ("images-targets", (), "what an image classifier knows: say which with --network"),
    ("texts-words", (), "what a sentence encoder knows: say which with --network"),
    ("digits-transfer", NETWORK, "--network, --weights, --pixels, --train: for the sequences images-targets"),
    ("images-target", NETWORK, "did you mean 'images-targets'"),
    ("images-targets", ("--network", "resnet8"), "there is no timm model 'resnet8'"),
    ("images-targets", (*NETWORK, "--classes", "x.json"), "--classes names the folders of --source"),
    ("images-targets", (*NETWORK, "--source", "nowhere"), "nowhere is no folder"),
    ("images-targets", ("--network", "test_vit", "--weights", "nothing.pth"), "'nothing.pth' is no file"),
    ("images-targets", (*NETWORK, "--set", "recipe.network=mlp"), "there is no recipe setting 'network'"),
    ("images-targets", (*NETWORK, "--scenario", "class"), "the given sequence is 'task'-incremental"),
    ("texts-targets", ("--network", "x", "--pixels", 32), "--pixels: has no meaning for texts-targets"),
    ("language-targets", ("--network", "x", "--source", "y"), "--source: has no meaning for language-targets"),
])
def test_what_does_not_fit_is_refused(tmp_path, sequence, words, said):
    assert said in refused("run", sequence, "--methods", "finetune", "--out", tmp_path / "out", *words)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    words = refused("run", "images-targets", *NETWORK, "--methods", "finetune", "--out", tmp_path)
    assert "forgetting[vision]" in words
