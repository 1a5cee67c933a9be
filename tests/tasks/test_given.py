"""Sequences that need a network: what each asks for, and what it refuses."""

from pathlib import Path

import pytest

from forgetting import tasks
from forgetting.tasks import Classifier, Decoder, Encoder, sequence_for
from forgetting.tasks.given import GIVEN, NEEDS, kind_of
from forgetting.tasks.images import SHIFTS as IMAGES
from forgetting.tasks.texts import SHIFTS as TEXTS

PAGE = Path(__file__).parents[2] / "docs" / "sequences.md"
ENCODER = Encoder("nobody/encoder", ("A cat.", "A dog."))


def test_their_names_say_what_is_needed_and_what_comes():
    assert set(GIVEN) == {f"images-{shift}" for shift in IMAGES} | {f"texts-{shift}" for shift in TEXTS} | {
        "language-targets"}
    assert not set(GIVEN) & set(tasks.names())
    assert {kind_of(name) for name in GIVEN} == {"images", "texts", "language"}
    assert all(said.pretrained for said in GIVEN.values())


def test_the_page_lists_each_as_it_is():
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
    listed = {row[0].strip("`"): row[1:] for row in rows}
    for name, said in GIVEN.items():
        assert listed[name] == [said.text, said.scenario, NEEDS[kind_of(name)]]


def test_another_kind_of_network_is_refused():
    with pytest.raises(TypeError, match=r"needs an image classifier \(tasks.Classifier or Clip\), not a Encod"):
        sequence_for("images-targets", ENCODER)
    with pytest.raises(TypeError, match=r"texts-words needs a sentence encoder \(tasks.Encoder\), not a Classifier"):
        sequence_for("texts-words", Classifier("resnet18"))
    with pytest.raises(TypeError, match=r"needs a causal language model \(tasks.Decoder\), not a Classifier"):
        sequence_for("language-targets", Classifier("resnet18"))


def test_wrong_names_get_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'images-rotation'"):
        sequence_for("image-rotation", Classifier("resnet18"))


def test_only_images_take_a_source():
    with pytest.raises(ValueError, match="language-targets takes no source=: that is for images"):
        sequence_for("language-targets", Decoder("gpt2", 64), source=object())
    with pytest.raises(ValueError, match="texts-targets takes no source="):
        sequence_for("texts-targets", ENCODER, source=object())
