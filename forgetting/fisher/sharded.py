"""Models whose weights lie in shards on several processes (FSDP2, DTensor): whole for an estimate."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from forgetting.curvature.shards import cut, sharded
from forgetting.parameters import Parameters, canonical

Back = Callable[[Mapping[str, Tensor]], Parameters]


@contextlib.contextmanager
def whole(model: nn.Module, *, together: bool) -> Iterator[Back]:
    """Within the block every process holds every weight whole, as a plain parameter; after it, its shards as before.

    Yields a function that cuts results into the shards of their parameters: DTensors of the same mesh and placements,
    so that a penalty compares shard with shard. The hooks of ``torch.distributed`` on the modules, which would gather
    and free the weights in each forward pass, rest meanwhile (and a mixed-precision policy with them: the estimate runs
    in the dtype of the shards). A model without shards passes as it is.

    Args:
        model: every process calls this at the same time.
        together: whether the processes are going to add up their results; shards alone make no sense.
    """
    _reshard(model)
    shards = {canonical(name): value for name, value in model.named_parameters() if sharded(value)}
    if not shards:
        yield dict
        return
    if not together:
        raise ValueError(f"the weights lie in shards on several processes (such as {next(iter(shards))!r}), so all of "
                         "them estimate together: call this on each, with "
                         "process_group=torch.distributed.group.WORLD")

    def back(results: Mapping[str, Tensor]) -> Parameters:
        return {name: cut(value, shards[name]) if name in shards else value for name, value in results.items()}

    with _plain(model), _resting(model):
        yield back


def _reshard(model: nn.Module) -> None:
    """FSDP2 keeps its root whole between forward and backward; FSDP1 has no parameters with names."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    if loaded is None:
        return
    for module in model.modules():
        if isinstance(module, loaded.FullyShardedDataParallel):
            raise ValueError("FullyShardedDataParallel flattens parameters, so that no weight has a name of its own; "
                             "shard the model with torch.distributed.fsdp.fully_shard (FSDP2) instead")
        if isinstance(module, loaded.FSDPModule):
            module.reshard()


@contextlib.contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Every sharded parameter replaced by a whole one, in every module that shares it."""
    found = [(module, name, value) for module in model.modules()
             for name, value in module._parameters.items() if value is not None and sharded(value)]
    gathered: dict[int, nn.Parameter] = {}
    try:
        for module, name, value in found:
            if id(value) not in gathered:
                full = value.detach().full_tensor()  # type: ignore[attr-defined]
                gathered[id(value)] = nn.Parameter(full, requires_grad=value.requires_grad)
            module._parameters[name] = gathered[id(value)]
        yield
    finally:
        for module, name, value in found:
            module._parameters[name] = value


@contextlib.contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """The modules without the forward hooks that ``torch.distributed`` put on them."""
    kept: list[tuple[Any, dict[int, Any]]] = []
    try:
        for module in model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                kept.append((hooks, dict(hooks)))
                for key, hook in kept[-1][1].items():
                    if getattr(hook, "__module__", "").startswith("torch.distributed."):
                        del hooks[key]
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)
