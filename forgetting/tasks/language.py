"""A sequence for pretrained language models: the next token of WikiText-2, then of Shakespeare, then of the news."""

from __future__ import annotations

from forgetting.tasks.decoders import Decoder
from forgetting.tasks.sizes import Sizes
from forgetting.tasks.task import DataSplit, Task, TaskSequence
from forgetting.tasks.texts import news, read

_CUTS = (0.8, 0.9)  # of a text: what lies before is learned, between is chosen on, behind is reported on


def language_sequence(network: Decoder, sizes: Sizes, *, shift: str = "targets") -> TaskSequence:
    """What a language model knows of WikiText-2, then Shakespeare and AG News, domain-incremental.

    An example is a window of tokens and the one that follows it; all tokens are columns. Accuracy is the share of
    held-out windows whose next token is the model's first guess.

    Args:
        network: the model.
        sizes: how many windows a task.
        shift: ``"targets"``, the only one.
    """
    assert shift == "targets"
    learned, held, tested = sizes.of_source()
    known = network.windows(read("wikitext2/valid.txt"), learned + held)
    order = range(learned + held)
    source = DataSplit(known.subset(order[:learned]), known.subset(order[learned:]),
                       network.windows(read("wikitext2/test.txt"), tested))
    columns = range(network.vocabulary())
    papers = "\n".join(text for group in zip(*news().values(), strict=False) for text in group)
    texts = {"Shakespeare": read("tinyshakespeare/input.txt"), "AG News": papers}
    tasks = [Task.of("WikiText-2", source, columns)]
    tasks += [Task.of(name, _parts(network, text, sizes), columns) for name, text in texts.items()]
    name = f"{network.name.rpartition('/')[2]}-{shift}"
    return TaskSequence(name, tuple(tasks), "domain", len(columns), pretrained=True)


def _parts(network: Decoder, text: str, sizes: Sizes) -> DataSplit:
    """Windows of a text, its end held out."""
    first, second = (int(share * len(text)) for share in _CUTS)
    parts = (text[:first], text[first:second], text[second:])
    return DataSplit(*(network.windows(part, count) for part, count in zip(parts, sizes.of_target(), strict=True)))
