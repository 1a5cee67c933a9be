"""CLIP by name: zero-shot logits as transformers computes them, logits to learn beside, a whole run with its curve."""

import json
import pickle

import pytest
import torch

from forgetting import methods
from forgetting.protocol import Recipe, run
from forgetting.tasks import Clip, sequence_for
from forgetting.tasks import given as sequences
from forgetting.tasks.sizes import Sizes
from tests.retention import made

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
LABELS = ("cat", "dog", "far away")


def write(place):
    """A CLIP of one narrow layer a side with its tokenizer of letters, as transformers saves them."""
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt")).save_pretrained(place)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}).save_pretrained(place)
    end = len(words) - 1
    narrow = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**narrow, "vocab_size": len(words), "max_position_embeddings": 40, "eos_token_id": end,
            "bos_token_id": end - 1, "pad_token_id": end}
    vision = {**narrow, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6,
                                         initializer_factor=20.0)
        transformers.CLIPModel(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def few(monkeypatch, tmp_path):
    made.images(monkeypatch, tmp_path)
    monkeypatch.setitem(sequences.SIZES, "images", Sizes(validation=4, test=4, source_test=8))


def test_logits_are_those_of_transformers(folder):
    network = Clip(str(folder), LABELS, "a photo of a {}.")
    images = torch.rand(3, 3, 16, 16)
    found = network.original()(images)
    whole = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    means, deviations = (torch.tensor(some).view(3, 1, 1) for some in (processor.image_mean, processor.image_std))
    for number, label in enumerate(LABELS):
        tokens = tokenizer([f"a photo of a {label}."], return_tensors="pt")
        with torch.no_grad():
            said = whole(pixel_values=(images - means) / deviations, **tokens).logits_per_image
        torch.testing.assert_close(found[:, number], said[:, 0], rtol=1e-4, atol=1e-4)
    assert len(found.detach().unique(dim=1)[0]) == 3


def test_a_run_goes_through_with_the_curve_between_before_and_after(folder, few):
    network = Clip(str(folder))
    sequence = sequence_for("images-targets", network, train=8)
    assert (sequence.classes, sequence[0].outputs, sequence.input_shape) == (40, tuple(range(10)), (3, 32, 32))
    result = run(Recipe(sequence, methods.get("wise-ft", amount=0.5), network=network, rate=0.05, epochs=1, batch=4,
                        pretraining_epochs=0, every=100))
    assert result.accuracy[0, 0] == result.accuracy[1, 0] == 1.0
    amounts = [entry["amount"] for entry in result.curve]
    assert min(amounts) == 0 < max(amounts) == 1
    assert result.recipe["network"] == folder.name


def test_texts_do_not_learn_and_the_network_goes_to_another_process(folder, few):
    network = pickle.loads(pickle.dumps(Clip(str(folder), LABELS)))
    assert (network.classes(), network.pixels) == (3, 16)
    names = [name for name, _ in network.original().named_parameters()]
    assert names
    assert not any("text" in name for name in names)


def test_wrong_names_are_refused(folder):
    with pytest.raises(ValueError, match="1 names of classes; at least 2"):
        Clip(str(folder), ("cat",))
    with pytest.raises(ValueError, match="has no {}, where the name of a class goes"):
        Clip(str(folder), LABELS, "a photo")
    with pytest.raises(OSError, match="nowhere"):
        Clip(str(folder / "nowhere"), LABELS).original()
