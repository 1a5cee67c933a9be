"""Sequences of language models: windows and the token after each, the model's own logits, and a whole run."""

import pickle

import pytest
import torch

from forgetting import methods
from forgetting.protocol import Recipe, run
from forgetting.tasks import Decoder, Examples, Task, TaskSequence
from forgetting.tasks.decoders import NextToken, causal
from forgetting.tasks.language import language_sequence
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.texts import read
from tests.retention import made

pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
FEW = Sizes(train=8, validation=3, test=5, source_test=12)
LETTERS = list("abcdefghijklmnop")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made.texts(patch, tmp_path_factory.mktemp("data"))
        yield Decoder(str(made.decoder(tmp_path_factory.mktemp("gpt"), LETTERS)), length=6)


def test_a_window_is_followed_by_its_next_token(network):
    found = network.windows("a b c d e f g h i j k l m n o p", 2)
    inputs, targets = next(iter(found.batches(2)))
    assert inputs.tolist() == [[1, 2, 3, 4, 5, 6], [8, 9, 10, 11, 12, 13]]
    assert targets.tolist() == [7, 14]


def test_a_text_that_is_too_short_is_refused(network):
    with pytest.raises(ValueError, match="3 windows of 7 tokens were asked for, and the text has 2"):
        network.windows("a b c d e f g h i j k l m n o p", 3)
    with pytest.raises(ValueError, match="the text has 2 tokens, fewer than one window of 7"):
        network.windows("a b", 1)
    with pytest.raises(ValueError, match="length=0: a window has at least one token"):
        Decoder("gpt2", 0)


def test_logits_are_the_whole_models_at_the_last_place(network):
    tokens = torch.tensor([[1, 5, 3, 2, 9, 9], [4, 4, 7, 1, 0, 16]])
    whole = causal(network.name)
    torch.testing.assert_close(NextToken(whole)(tokens), whole(input_ids=tokens).logits[:, 5])


def test_a_model_that_cannot_be_asked_for_one_place_gives_the_same(network):
    class Old(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = causal(network.name)

        def forward(self, input_ids, use_cache):
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    tokens = torch.tensor([[1, 5, 3, 2, 9, 9]])
    torch.testing.assert_close(NextToken(Old())(tokens), NextToken(causal(network.name))(tokens))


def test_texts_come_one_after_the_other_and_nothing_twice(network):
    sequence = language_sequence(network, FEW)
    assert [task.name for task in sequence] == ["WikiText-2", "Shakespeare", "AG News"]
    assert {task.outputs for task in sequence} == {tuple(range(20))}
    assert [[len(part) for part in task.parts] for task in sequence] == [[8, 6, 12], [8, 3, 5], [8, 3, 5]]
    assert (sequence.scenario, sequence.classes, sequence.pretrained) == ("domain", 20, True)
    both = network.windows(read("wikitext2/valid.txt"), 14)
    joined = torch.cat([sequence[0].train.inputs, sequence[0].validation.inputs])
    assert torch.equal(joined, both.inputs)


def test_the_source_is_what_the_model_guesses_and_the_run_goes_through(network):
    sequence = language_sequence(network, FEW)
    recipe = Recipe(sequence, methods.get("ewc", labels="sampled"), network=network, optimizer="adamw", rate=0.01,
                    epochs=1, batch=4, pretraining_epochs=0, every=100)
    result = run(recipe)
    with torch.no_grad():
        guesses = causal(network.name)(input_ids=sequence[0].test.inputs).logits[:, -1].argmax(-1)
    assert result.accuracy[0, 0] == float((guesses == sequence[0].test.targets).double().mean())
    assert result.accuracy.shape == (4, 3)


def test_another_vocabulary_is_refused(network):
    some = Examples(torch.zeros(2, 6, dtype=torch.int64), torch.tensor([0, 1]))
    other = TaskSequence("made up", (Task("one", some, some, some, (0, 1)),), "domain", 2, pretrained=True)
    with pytest.raises(ValueError, match="'made up' has 2 columns, .* a vocabulary of 20: make the sequence for this"):
        network(other)


def test_it_travels_to_another_process(network):
    assert pickle.loads(pickle.dumps(network)) == network
