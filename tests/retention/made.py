"""Made-up data in place of what the sequences read: CIFAR-10 in memory, files of MNIST and texts; a small decoder."""

from pathlib import Path

import pytest
import torch

from tests.tasks.images import small_cifar, write_mnist

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop")


def images(patch: pytest.MonkeyPatch, root: Path) -> None:
    """CIFAR-10 of 60 images a part, Fashion-MNIST and MNIST of 240."""
    patch.setenv("FORGETTING_DATA", str(root))
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    patch.setattr("forgetting.tasks.data.read_cifar", small_cifar)
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(root, name=name)


def decoder(where: Path, words: list[str]) -> Path:
    """A tiny GPT-2, its head tied, with a tokenizer by words, as a user's folder holds them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["?", *words])}, unk_token="?"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="?").save_pretrained(where)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0,
                                         eos_token_id=0)
        transformers.GPT2LMHeadModel(config).save_pretrained(where)
    return where


def texts(patch: pytest.MonkeyPatch, root: Path) -> None:
    """WikiText-2, Shakespeare and AG News, of letters."""
    patch.setenv("FORGETTING_DATA", str(root))
    (root / "text" / "wikitext2").mkdir(parents=True)
    (root / "text" / "ag_news").mkdir()
    letters = WORDS[5:]
    for part, first in (("valid", 0), ("test", 7)):
        lines = [" ".join(letters[(first + number * step + place) % len(letters)] for place in range(8 + step)) + " ."
                 for number in range(16) for step in range(1, 6)]
        (root / "text" / "wikitext2" / f"{part}.txt").write_text(" = A title = \n\n" + "\n".join(lines))
    rows = [f'"{1 + number % 4}","{letters[number % 16]} {letters[number % 7]}","{letters[number % 11]}, b!"'
            for number in range(80)]
    (root / "text" / "ag_news" / "test.csv").write_text("\n".join(rows))
    (root / "text" / "tinyshakespeare").mkdir()
    play = "\n".join(" ".join(letters[::step]) for step in (1, 2, 3) * 30)
    (root / "text" / "tinyshakespeare" / "input.txt").write_text(play)
