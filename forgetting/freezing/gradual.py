"""The phases in which a model is unfrozen: layer by layer from the output on, or the head and then everything."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from forgetting.freezing.coverage import by_depth, covered, once, state
from forgetting.freezing.unfreezing import Unfreezing
from forgetting.parameters import Selection

__all__ = ["gradual_unfreezing", "lp_ft"]


def gradual_unfreezing(
    model: nn.Module, optimizer: Optimizer, *, steps: int | None = None, every: int | None = None, inputs: Any = None
) -> Unfreezing:
    r"""Let the last layer learn first, and one more layer in each phase, down to the input.

    .. math:: S_p = \{1, \dots, L - 1 - p\}, \qquad p_t = \min\big(L - 1, \lfloor t / e \rfloor\big)
              \ \text{ or }\ \ \max\{p : \lfloor p\,T / L \rfloor \le t\}

    with :math:`S_p` the layers that are frozen in phase :math:`p`, :math:`L` the number of layers, :math:`t` the steps
    done, and :math:`e` the steps of a phase, or :math:`T` those of all phases together. The layers are those of
    :func:`~forgetting.execution.execution_groups` with ``blocks=True``, as for
    :func:`forgetting.rates.layerwise_decay`; one in which nothing requires a gradient takes no phase.

    Args:
        model: any module.
        optimizer: of all parameters: make it before, with all the groups it will ever have. What it does not hold
            cannot be unfrozen.
        steps: number of the optimizer's steps over which all phases are spread evenly: the last begins where a part
            1/L of them is left. At least as many as there are layers.
        every: steps of each phase, such as those of an epoch; all layers learn from step ``every * (L - 1)`` on. Give
            either this or ``steps``.
        inputs: one forward pass's inputs, which tell the order; ``None`` takes the order of registration. What the
            pass does not use learns from the beginning.

    Returns:
        An :class:`Unfreezing`: call its ``step()`` after each of the optimizer's.

    Raises:
        ValueError: where not exactly one of ``steps`` and ``every`` is given, or it is too small; where fewer than two
            layers would learn, or the optimizer lacks a parameter.

    Cost:
        None; with ``inputs`` one forward pass. The phases before the last skip the backward pass of what is frozen.

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018 (arXiv 1801.06146),
        section 3.3.

    Differs:
        Their phases are epochs: ``every=`` the steps of one. Their layers are those of their network; a tied weight
        belongs here to the layer that uses it first, so it learns last.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> unfreezing = gradual_unfreezing(model, optimizer, every=10)
        >>> for _ in range(10):
        ...     optimizer.step()
        ...     unfreezing.step()
        >>> unfreezing.frozen
        ('0.weight', '0.bias')
    """
    given = [value for value in (steps, every) if value is not None]
    if len(given) != 1:
        raise ValueError("gradual_unfreezing takes either steps= (of all phases) or every= (of each phase), not "
                         f"{'both' if given else 'none of them'}")
    _whole(given[0], "every" if steps is None else "steps")
    phases = _layers(model, inputs)
    if len(phases) < 2:
        raise ValueError(f"{type(model).__name__} has {len(phases)} layers that learn: there is nothing to unfreeze "
                         "one after another")
    if steps is not None and steps < len(phases):
        raise ValueError(f"steps={steps} are fewer than the {len(phases)} layers, of which one is unfrozen at a time: "
                         "train for longer, or use lp_ft, which has two phases")
    starts = [number * every if every is not None else number * given[0] // len(phases)
              for number in range(len(phases))]
    return Unfreezing(model, optimizer, phases, starts)


def lp_ft(
    model: nn.Module, optimizer: Optimizer, steps: int, *, share: float = 0.5, head: Selection = None,
    inputs: Any = None,
) -> Unfreezing:
    r"""Train the head alone on the features as they are (a linear probe), then fine-tune everything.

    .. math:: \theta_\text{body} = \theta_\text{body}^* \quad\text{while } t < \operatorname{round}(s\,T)

    with :math:`t` the steps done, :math:`T` the steps and :math:`s` the share. Two phases of the same
    :class:`Unfreezing` that :func:`gradual_unfreezing` makes: a random head's large first gradients do not reach the
    body.

    Args:
        model: any module.
        optimizer: of all parameters, head and body: make it before.
        steps: number of the optimizer's steps, at least 2.
        share: part of the steps in which the head learns alone, in (0, 1); each phase has a step at least.
        head: patterns, or a function of the name, as :func:`freeze` takes them; ``None``: the last layer of a forward
            pass.
        inputs: one forward pass's inputs, which tell what runs last; ``None`` takes the order of registration.

    Returns:
        An :class:`Unfreezing`: call its ``step()`` after each of the optimizer's.

    Raises:
        ValueError: where a number is out of its range; for ``inputs`` beside ``head``; where a pattern matches nothing,
            head or body has nothing that learns, or the optimizer lacks a parameter.

    Cost:
        None; with ``inputs`` one forward pass. The first phase has no backward pass but the head's.

    Reference:
        Kumar, Raghunathan, Jones, Ma and Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", 2022 (arXiv 2202.10054).

    Differs:
        They train the two stages one after the other, each with its own rate; here they share one optimizer, and
        groups (or a schedule) give the rates.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> unfreezing = lp_ft(model, optimizer, 100, share=0.2)
        >>> unfreezing.frozen
        ('0.weight', '0.bias')
    """
    _whole(steps, "steps", 2)
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} must lie in (0, 1): it is the part of the steps in which the head is alone")
    if head is not None and inputs is not None:
        raise ValueError("inputs= tell what runs last, and head= says it: give one of them")
    everything = state(model)
    last = {id(everything[name]) for name in _last(model, inputs)} if head is None else covered(everything, head)
    tensors = once(everything)
    parts = {"head": [name for name in tensors if id(tensors[name]) in last],
             "body": [name for name in tensors if id(tensors[name]) not in last]}
    for part, names in parts.items():
        if not any(tensors[name].requires_grad for name in names):
            raise ValueError(f"nothing in the {part} requires a gradient, of which there are {len(names)} tensors: "
                             "LP-FT trains the head first and the body after it")
    return Unfreezing(model, optimizer, list(parts.values()), [0, min(steps - 1, max(1, round(share * steps)))])


def _layers(model: nn.Module, inputs: Any) -> list[list[str]]:
    """The layers in which something learns, the last first, with what a forward pass does not use."""
    everything = state(model)
    used, unused = by_depth(model, inputs, blocks=True)
    learning = [names for names in reversed(used) if any(everything[name].requires_grad for name in names)]
    return [[*names, *(name for rest in unused for name in rest)] if place == 0 else names
            for place, names in enumerate(learning)]


def _last(model: nn.Module, inputs: Any) -> list[str]:
    """The last layer in which something learns, with what a forward pass does not use."""
    return next(iter(_layers(model, inputs)), [])


def _whole(value: int, name: str, least: int = 1) -> None:
    """Raise unless it is a number of steps."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of steps, at least {least}")
