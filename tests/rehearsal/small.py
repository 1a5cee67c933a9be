"""Small models, data and loops for the tests of rehearsal."""

import torch
from torch import nn

from forgetting.rehearsal import AGEM, DER, Memory, ProxyReplay, Replay

# Every class with settings under which a draw is the whole memory: no chance is left but that of filling it.
MAKERS = {
    "Replay": lambda strength, **memory: Replay(strength, memory=Memory(**memory), batch=1000),
    "DER": lambda strength, **memory: DER(strength, memory=Memory(**memory), batch=1000),
    "DER++": lambda strength, **memory: DER(strength, labels=0.5, memory=Memory(**memory), batch=1000),
    "AGEM": lambda strength, **memory: AGEM(strength, memory=Memory(**memory), batch=1000),
    "ProxyReplay": lambda strength, **memory: ProxyReplay(strength, memory=Memory(**memory), batch=1000),
}


def network(dtype=torch.float32, classes=4):
    """A classifier with a norm and dropout, both in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, classes)).to(dtype)


def examples(count=24, seed=0, classes=4, dtype=torch.float32):
    """Inputs and class labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator, dtype=dtype)
    return inputs, torch.randint(classes, (count,), generator=generator)


def batches(count=24, size=8, seed=0, classes=4, dtype=torch.float32):
    """The same in batches."""
    inputs, targets = examples(count, seed, classes, dtype)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def step(model, optimizer, rehearsal, number):
    """One step of learning a task, the batch drawn by its number."""
    inputs, targets = examples(8, seed=100 + number)
    logits = model(inputs)
    optimizer.zero_grad()
    (nn.functional.cross_entropy(logits, targets) + rehearsal.penalty(model, inputs, logits)).backward()
    optimizer.step()


def parts(model, optimizer, rehearsal):
    """The whole state of a run, as one file holds it."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rehearsal": rehearsal.state_dict(),
            "random": torch.random.get_rng_state()}


def resumed(name, file):
    """A run that goes on where a file was written."""
    state = torch.load(file, weights_only=True)
    model, rehearsal = network(), drawing(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    rehearsal.load_state_dict(state["rehearsal"])
    torch.random.set_rng_state(state["random"])
    return model, optimizer, rehearsal


def drawing(name):
    """A rehearsal that leaves everything to chance: what is kept, what is drawn."""
    makers = {"Replay": lambda: Replay(memory=Memory(capacity=9, policy="balanced", seed=3)),
              "DER++": lambda: DER(0.5, labels=2.0, memory=Memory(capacity=9), batch=4),
              "AGEM": lambda: AGEM(memory=Memory(share=0.5), batch=4),
              "ProxyReplay": lambda: ProxyReplay(2.0, memory=Memory(capacity=9), batch=4)}
    return makers[name]()


def go_on(model, optimizer, rehearsal, numbers):
    """Some steps, with what hooks there are."""
    with rehearsal.attach(model, optimizer):
        for number in numbers:
            step(model, optimizer, rehearsal, number)
