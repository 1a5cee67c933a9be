"""Parameters taken out of learning: by pattern, by depth, or all but a few."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import Parameter

from forgetting.freezing.coverage import by_depth, covered, norms_of, state
from forgetting.norms import hold
from forgetting.parameters import Handle, Selection, canonical

__all__ = ["Frozen", "freeze"]


class Frozen(Handle):
    """What a call froze, until ``remove()`` or the end of a ``with`` block.

    Args:
        names: the parameters that do not learn.
        undo: gives them back.

    **Cost**: none.

    Example:
        >>> with freeze(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), "0") as frozen:
        ...     frozen.names
        ('0.weight', '0.bias')
    """

    def __init__(self, names: Iterable[str], undo: Callable[[], None]) -> None:
        super().__init__(undo)
        self.names = tuple(names)

    def __enter__(self) -> Frozen:
        return self


def freeze(
    model: nn.Module,
    parameters: Selection = None,
    *,
    depth: int | None = None,
    keep: Selection = None,
    inputs: Any = None,
    norm_statistics: Literal["still", "moving"] = "still",
) -> Frozen:
    r"""Take parameters out of learning: no gradient, no optimizer update, no norm statistics that move.

    .. math:: \theta_i \leftarrow \theta_i^* \quad\text{for every } i \in S

    with :math:`S` the frozen set. ``requires_grad`` becomes ``False`` and ``.grad`` becomes ``None``, without which
    AdamW's weight decay and an old momentum would go on moving a "frozen" weight (fault F13). Call it before or after
    the optimizer is made, and before ``DistributedDataParallel``. Say in one of three ways what is frozen:

    - ``parameters``: what these patterns cover;
    - ``depth=k``: the first k groups of :func:`~forgetting.execution.execution_groups`;
    - ``keep``: everything except what these patterns cover (``keep="head"``: feature extraction, linear probe).

    A pattern is a shell pattern over names as ``state_dict`` gives them. It covers a module's path too: ``"layer1"``
    and ``"layer1.*"`` mean all that lies in ``layer1`` (fault F12: setting an attribute of the module freezes
    nothing). A tied weight has several names: freezing any of them freezes it wherever it is used, keeping any of
    them keeps it learning everywhere.

    Args:
        model: any module.
        parameters: pattern, patterns, or a function of the name, which is asked for running statistics too.
        depth: number of groups, from the input on, at least 1.
        keep: likewise.
        inputs: one forward pass's inputs, for ``depth``: see :func:`~forgetting.execution.execution_groups`; ``None``
            takes the order of registration.
        norm_statistics: ``"still"``: the running statistics of the frozen part are held too, through any later
            ``model.train()``, as :func:`~forgetting.norms.still` does it. Of the frozen part is a norm layer with a
            frozen parameter, and one whose statistics the patterns cover by name (``"bn1.running_mean"``, or any
            pattern for the module around it); under ``depth``, one without parameters that runs before the first
            group that learns. The statistics of the part that learns go on moving, and they forget as well: hold
            those of the whole model by :func:`~forgetting.norms.still`. ``"moving"``: statistics are left alone.

    Returns:
        A handle that says what is frozen; ``remove()`` gives ``requires_grad`` back to exactly the parameters that this
        call took it from, and lets the statistics move. Undo overlapping calls in reverse order.

    Raises:
        ValueError: where a pattern matches nothing, nothing would be left that learns, nothing is frozen, or
            ``depth`` exceeds the groups that run; where not exactly one of the three ways is given.
        TypeError: where a selection is none of the above.

    Cost:
        None; with ``depth`` and ``inputs`` one forward pass. The backward pass gets cheaper: torch skips what lies
        below the lowest parameter that learns.

    Reference:
        Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural networks?", 2014
        (arXiv 1411.1792): the first k layers frozen.

    Differs:
        A batch norm's statistics count as part of its layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with freeze(model, "0"):
        ...     [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['2.weight', '2.bias']
        >>> all(parameter.requires_grad for parameter in model.parameters())
        True
    """
    _check(parameters, depth, keep, inputs, norm_statistics)
    everything = state(model)
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to freeze")
    if depth is not None:
        chosen = _bottom(model, everything, inputs, depth)
    elif keep is not None:
        chosen = set(map(id, everything.values())) - covered(everything, keep)
    else:
        chosen = covered(everything, parameters)
    return out_of_learning(model, chosen, norm_statistics)


def _check(parameters: Selection, depth: int | None, keep: Selection, inputs: Any, norm_statistics: str) -> None:
    """Raise unless the arguments say one thing."""
    ways = {"parameters": parameters, "depth": depth, "keep": keep}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"freeze takes exactly one of parameters=, depth= and keep=, not {' and '.join(given) or 'none of them'}; "
            'a module inside the model is frozen by its path: freeze(model, "backbone")'
        )
    if inputs is not None and depth is None:
        raise ValueError("inputs= is for depth= only: patterns need no forward pass")
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise ValueError(f"depth={depth!r} must be a whole number of groups, at least 1")
    if norm_statistics not in ("still", "moving"):
        raise ValueError(f'norm_statistics={norm_statistics!r} must be "still" or "moving"')


def _bottom(model: nn.Module, everything: Mapping[str, Tensor], inputs: Any, depth: int) -> set[int]:
    """The identities of the first groups' parameters and of the statistics that are used before the next group."""
    groups, _ = by_depth(model, inputs)
    if depth > len(groups):
        raise ValueError(f"depth={depth} is more than the {len(groups)} groups of parameters that a forward pass uses")
    return {id(everything[name]) for group in groups[:depth] for name in group}


def out_of_learning(model: nn.Module, chosen: set[int], norm_statistics: str = "still") -> Frozen:
    """Freeze what is chosen by identity, or say why that makes no sense."""
    frozen = {canonical(name): parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
    if not any(parameter.requires_grad and id(parameter) not in chosen for parameter in model.parameters()):
        raise ValueError(
            f"{len(frozen)} parameters of {type(model).__name__} would be frozen and nothing left to learn: leave some "
            "out, or, to evaluate only, use torch.no_grad()"
        )
    layers = norms_of(model, chosen) if norm_statistics == "still" else []
    if not frozen and not layers:
        raise ValueError("nothing would be frozen: no parameter and no norm statistics are covered")
    return hold_back(frozen, layers)


def hold_back(parameters: Mapping[str, Parameter], layers: Iterable[nn.Module]) -> Frozen:
    """No gradient for these, no moving statistics in those, and the handle that undoes it."""
    changed = [parameter for parameter in parameters.values() if parameter.requires_grad]
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    held = hold(layers)

    def undo() -> None:
        for parameter in changed:
            parameter.requires_grad_(True)
        held.remove()

    return Frozen(parameters, undo)
