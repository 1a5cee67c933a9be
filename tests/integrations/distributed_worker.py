"""Two processes under torchrun, DistributedDataParallel or FSDP2; what they learned goes to a file for each rank.

    torchrun --nproc-per-node 2 --module tests.integrations.distributed_worker ddp FOLDER
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forgetting import fisher
from forgetting.curvature import Anchored, Diagonal
from forgetting.curvature.shards import gathered
from forgetting.regularizers import EWC, L2SP, SI

ROOT = Path(__file__).parents[2]
RANKS, SECONDS = 2, 120  # far above what a busy machine needs: a hang is a failure
STEPS, ROWS, STRENGTH, CLIP = 20, 8, 0.7, 0.3
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.01),
}
LOOPS = [(name, accumulate, clip) for name in OPTIMIZERS for accumulate, clip in ((1, None), (4, CLIP), (8, None))]


class Heads(nn.Module):
    """A body and two heads, of which training uses one: the other is the source's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.old, self.new = nn.Linear(7, 2), nn.Linear(7, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.new(self.body(inputs))


def source() -> Heads:
    torch.manual_seed(3)
    return Heads()


def started() -> Heads:
    """Away from the source's weights, so that every weight is pulled."""
    generator, model = torch.Generator().manual_seed(6), source()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def importances() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in source().named_parameters()}


def batches(count: int, rank: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, or a rank's half of each."""
    generator = torch.Generator().manual_seed(4)
    rows = slice(rank, None, RANKS if rank is not None else None)
    for _ in range(count):
        inputs = torch.randn(ROWS, 5, generator=generator)
        yield inputs[rows], torch.randint(3, (ROWS,), generator=generator)[rows]


def consolidated() -> EWC:
    ewc = EWC(STRENGTH)
    ewc.consolidate(source(), curvature=Diagonal(importances()))
    return ewc


def consolidated_on(model: nn.Module) -> EWC:
    """The same, on the shards of the source's weights."""
    ewc, kept = EWC(STRENGTH), Anchored(Diagonal(importances()), dict(source().named_parameters()))
    ewc.consolidate(model, curvature=kept.sharded(model))
    return ewc


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, accumulate: int = 1, clip: float | None = None, *,
            rank: int | None = None, before: Callable[[], None] = lambda: None, steps: int = STEPS) -> None:
    """The loop: micro-batches, of which the last one brings the ranks together, the clip, the step."""
    data = batches(steps * accumulate, rank)
    for _ in range(steps):
        optimizer.zero_grad()
        for last in (*(False,) * (accumulate - 1), True):
            inputs, targets = next(data)
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(last)
            with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                (nn.functional.cross_entropy(model(inputs), targets) / accumulate).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        before()
        optimizer.step()


def plain(name: str = "SGD", accumulate: int = 1, clip: float | None = None, strength: float = STRENGTH) -> Heads:
    """What one process does without a hook of ours: λF(θ−θ*), written out, after the clip."""
    model, anchor, where = started(), dict(source().named_parameters()), importances()
    optimizer = OPTIMIZERS[name](model.parameters())

    @torch.no_grad()
    def pull() -> None:
        for name, weight in model.named_parameters():
            found = strength * where[name] * (weight - anchor[name])
            weight.grad = found if weight.grad is None else weight.grad + found

    trained(model, optimizer, accumulate, clip, before=pull)
    return model


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All weights by plain names."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return {name: gathered(weight.detach()).clone() for name, weight in inner.named_parameters()}


def sharded(module: nn.Module) -> nn.Module:
    """In shards, as one group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(module, mesh=init_device_mesh("cpu", (RANKS,)))


def partly(model: Heads) -> Heads:
    """In shards, but for the heads."""
    sharded(model.body)
    return model


def spread(model: Heads) -> nn.Module:
    """In shards, the body on its own."""
    return sharded(partly(model))


def error(call: Callable[[], Any]) -> str:
    """What a call raises."""
    try:
        call()
    except (RuntimeError, TypeError, ValueError) as found:
        return str(found)
    return ""


def loops(rank: int, wrap: Callable[[nn.Module], nn.Module]) -> dict[Any, Any]:
    """The weights after each of the loops, with a regularizer that was consolidated before the model was wrapped."""
    found = {}
    for name, accumulate, clip in LOOPS:
        ewc, model = consolidated(), wrap(started())
        optimizer = OPTIMIZERS[name](model.parameters())
        with ewc.attach(model, optimizer, mode="gradient"):
            trained(model, optimizer, accumulate, clip, rank=rank)
        found[name, accumulate, clip] = whole(model)
    return found


def listened(rank: int | None, wrap: Callable[[nn.Module], nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after two tasks with SI, and its importances."""
    model, si = wrap(started()), SI(STRENGTH)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with si.attach(model, optimizer, mode="gradient"):
        for _ in range(2):
            trained(model, optimizer, rank=rank)
            si.consolidate(model)
    return whole(model), {name: gathered(value) for name, value in si.consolidated.curvature.items()}


def moved_back(rank: int | None, wrap: Callable[[nn.Module], nn.Module], mode: str) -> dict[str, Tensor]:
    """Weights after L2-SP, consolidated on the model as it is wrapped."""
    model, l2sp = wrap(source()), L2SP(STRENGTH)
    l2sp.consolidate(model)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with l2sp.attach(model, optimizer, mode=mode):
        trained(model, optimizer, rank=rank)
    return whole(model)


def replicas(rank: int) -> dict[Any, Any]:
    """DistributedDataParallel."""
    wrap = functools.partial(nn.parallel.DistributedDataParallel, find_unused_parameters=True)
    model, ewc, apart = wrap(source()), EWC(STRENGTH), EWC(STRENGTH)
    inputs, targets = next(batches(1))
    ewc.consolidate(model, [(inputs, targets)])
    share = fisher.anchored(model, list(batches(1, rank)), process_group=torch.distributed.group.WORLD)
    apart.consolidate(model, list(batches(1, rank)))

    def naive() -> None:
        wrapped, known = wrap(started()), consolidated()
        (nn.functional.cross_entropy(wrapped(inputs), targets) + known.penalty(wrapped)).backward()

    return {**loops(rank, wrap), "SI": listened(rank, wrap), "naive": error(naive),
            "all of it": dict(ewc.consolidated.curvature), "shares": dict(share.curvature),
            "its share": dict(apart.consolidated.curvature)}


def shards(rank: int) -> dict[Any, Any]:
    """FSDP2."""
    inputs, targets = next(batches(1, rank))
    ewc, model = EWC(STRENGTH), spread(started())
    ewc.consolidate(model, curvature=fisher.anchored(model, [(inputs, targets)],
                                                     process_group=torch.distributed.group.WORLD))
    kept = ewc.consolidated
    alike = all(value.placements == weight.placements and value.to_local().shape == weight.to_local().shape
                for name, weight in model.named_parameters() for value in (kept.anchor[name], kept.curvature[name]))

    def in_the_loss() -> None:
        (nn.functional.cross_entropy(model(inputs), targets) + ewc.penalty(model)).backward()

    naive = error(in_the_loss)
    state = gathered(consolidated_on(spread(source())).state_dict())
    again = EWC(STRENGTH)
    again.load_state_dict(state)
    squeezed = EWC(STRENGTH, storage="int8")
    squeezed.consolidate(source(), curvature=Diagonal(importances()))
    return {
        **loops(rank, sharded),
        "SI": error(lambda: listened(rank, spread)),
        "gradient": moved_back(rank, spread, "gradient"),
        "proximal": moved_back(rank, spread, "proximal"),
        "in the loss": naive,
        "alike": alike,
        "state": gathered(again.pull(spread(started()))),
        "partly": gathered(consolidated().pull(partly(started()))),
        "int8": error(lambda: squeezed.pull(spread(started()))),
        "kept": gathered(dict(kept.curvature)),
    }


@functools.cache
def launched(kind: str) -> list[dict[Any, Any]]:
    """What each rank found; torchrun on a free port, ended with all of its processes whatever happens."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--rdzv-backend",
                   "c10d", "--rdzv-endpoint", "localhost:0", "--module", __name__, kind, folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as running:
            try:
                said, _ = running.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                running.terminate()  # torchrun ends its workers, which a kill would leave behind
                said, _ = running.communicate()
        assert running.returncode == 0, said
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def main(kind: str, folder: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=dt.timedelta(seconds=60))
    rank = torch.distributed.get_rank()
    found = {"ddp": replicas, "fsdp2": shards}[kind](rank)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
