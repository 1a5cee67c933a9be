"""Sequences of sentence encoders: sentences that are known, AG News in pairs, shifted texts, and a whole run."""

import pytest
import torch

from forgetting import methods
from forgetting.protocol import Recipe, run
from forgetting.tasks import texts
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.texts import text_sequence
from tests.retention import made

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
FEW = Sizes(train=8, validation=4, test=8, source_test=20)


def write(place):
    """A BERT of one narrow layer for made-up texts, with its tokenizer."""
    (place / "vocab.txt").write_text("\n".join(made.WORDS))
    transformers.BertTokenizer(str(place / "vocab.txt")).save_pretrained(place)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig(
            vocab_size=len(made.WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=12, max_position_embeddings=40, pad_token_id=0)).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    place = write(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        made.texts(patch, place)
        patch.setattr(texts, "SENTENCES", 5)
        yield texts.encoder(str(place), length=16)


def test_pairs_of_classes_have_columns_of_their_own(network):
    sequence = text_sequence(network, FEW)
    assert [task.name for task in sequence] == ["source (agreement)", "World and Sports", "Business and Sci/Tech"]
    assert [task.outputs for task in sequence] == [tuple(range(5)), (5, 6), (7, 8)]
    assert sequence[1].train.targets.bincount()[5:].tolist() == [4, 4]
    assert sequence[0].train.inputs.dtype == torch.int64


def test_shifted_texts_have_the_same_classes_and_fewer_words(network):
    _, plain, moved = text_sequence(network, FEW, shift="words")
    assert (plain.outputs, moved.outputs) == ((5, 6, 7, 8), (9, 10, 11, 12))
    assert torch.equal(plain.train.targets + 4, moved.train.targets)
    assert (moved.train.inputs != 0).sum() < (plain.train.inputs != 0).sum()


def test_a_shifted_text_is_the_same_every_time_and_never_empty():
    long = "One, Two! Three? " * 20
    assert texts.shifted(long, 3) == texts.shifted(long, 3) != texts.shifted(long, 4)
    kept = texts.shifted(long, 3).split()
    assert set(kept) == {"one", "two", "three"}
    assert 0.5 * 60 < len(kept) < 0.9 * 60
    assert all(texts.shifted("Word!", number) for number in range(20))


def test_no_sentence_is_in_two_parts_and_headings_are_none(network):
    found = texts.wikipedia("valid")
    assert len(set(found)) == len(found)
    assert not any("=" in sentence for sentence in found)
    assert set(network.sentences) == set(found[:5])


def test_the_source_is_known_and_the_run_goes_through(network):
    recipe = Recipe(text_sequence(network, FEW), methods.get("finetune"), network=network, optimizer="adamw", rate=0.01,
                    epochs=1, batch=4, pretraining_epochs=0, every=100)
    result = run(recipe)
    assert result.accuracy[0, 0] == result.accuracy[1, 0] == 1.0
    assert result.accuracy.shape == (4, 3)


def test_missing_texts_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FORGETTING_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"wikitext2/valid\.txt cannot be read .*FORGETTING_DATA"):
        texts.wikipedia("valid")
