"""Weights between two models: what a network knows on the straight line from before to after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from forgetting.averaging.states import Buffers, between, buffers_of, check, copied, running, share, some
from forgetting.parameters import canonical

__all__ = ["interpolate", "wise_ft"]

CURVE = tuple(step / 10 for step in range(11))


def interpolate(
    before: Mapping[str, Any], after: Mapping[str, Any], amount: float, *, buffers: Buffers = "interpolate"
) -> dict[str, Any]:
    r"""The state of the network a part of the way from before to after fine-tuning.

    .. math:: \theta_\alpha = (1 - \alpha)\,\theta_{\text{before}} + \alpha\,\theta_{\text{after}}

    Amounts 0 and 1, and entries that are equal in both, come out exactly.

    **Norm statistics.** Running means and variances are interpolated like weights unless ``buffers`` says otherwise.
    They are then not the statistics of the interpolated network: an activation's variance is not linear in the
    weights. Where the two ends' statistics differ much, re-estimate them: forward passes in train mode over data,
    with the weights of this amount. Where they were held still (:func:`forgetting.norms.still`) the question does
    not arise.

    Args:
        before: the ``state_dict()`` of the model before fine-tuning, copied at that time: ``state_dict()`` itself
            shares memory with the live weights.
        after: the ``state_dict()`` after fine-tuning.
        amount: :math:`\alpha` in [0, 1].
        buffers: where running statistics (``running_mean``, ``running_var``) come from. All else that is floating is
            interpolated; a state dict does not say what is a parameter, :func:`wise_ft` asks the model.

    Returns:
        A state for ``model.load_state_dict``, in new memory, with ``after``'s order, dtypes and devices. float16 and
        bfloat16 are computed in float32. What is not floating (``num_batches_tracked``, masks) comes from ``after``.

    Raises:
        ValueError: where names or shapes differ (with the names), or the amount is out of its range.

    Cost:
        One copy of the state.

    Reference:
        Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), 2022 (arXiv 2109.01903), eq. 1.

    Differs:
        Their CLIP models have no running statistics; here their treatment is an argument.

    Example:
        >>> import torch
        >>> interpolate({"weight": torch.tensor([0.0, 2.0])}, {"weight": torch.tensor([4.0, 2.0])}, 0.25)["weight"]
        tensor([1., 2.])
    """
    return between(before, after, amount, buffers, running)


def wise_ft(
    model: nn.Module, before: Mapping[str, Any], amounts: Iterable[float] = CURVE, *, buffers: Buffers = "interpolate"
) -> Iterator[tuple[float, nn.Module]]:
    r"""Walk the model along the line from its old weights to its present ones: the whole curve of WiSE-FT.

    .. math:: \theta_\alpha = (1 - \alpha)\,\theta_{\text{before}} + \alpha\,\theta_{\text{after}}
        \quad\text{for each amount } \alpha

    The model that comes with each amount is the one given, loaded; evaluate it and go on. Its present
    weights and buffers are put back when the iterator ends or is closed: after the last amount, and on an exception or
    a ``break`` in ``for amount, model in wise_ft(…)``; an iterator that has a name is closed by ``close()``.

    Args:
        model: the fine-tuned model.
        before: its ``state_dict()`` before fine-tuning, as a copy (``copy.deepcopy(model.state_dict())``).
        amounts: the :math:`\alpha`, each in [0, 1]; by default 0, 0.1, …, 1.
        buffers: where the floating buffers come from, see :func:`interpolate`.

    Returns:
        An iterator over ``(amount, model)``. Choose an amount on validation data; keep it by
        ``model.load_state_dict(interpolate(before, after, amount))``.

    Raises:
        ValueError: at the call: where ``before`` shares memory with the model (fault F11: the line would be a point),
            names or shapes differ, or an amount is out of its range.

    Cost:
        Two copies of the state beside the model and ``before``; one evaluation an amount.

    Reference:
        Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), 2022 (arXiv 2109.01903), eq. 1, figure 1.

    Differs:
        As :func:`interpolate`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.fill_(0.0)
        >>> before = {name: value.clone() for name, value in model.state_dict().items()}
        >>> _ = model.weight.fill_(1.0)
        >>> [(amount, model.weight.item()) for amount, model in wise_ft(model, before, (0, 0.5))], model.weight.item()
        ([(0, 0.0), (0.5, 0.5)], 1.0)
    """
    plain = getattr(model, "_orig_mod", model)
    live = plain.state_dict()
    before = {canonical(name): value for name, value in before.items()}
    aliases = [name for name, value in live.items() if share(value, before.get(name))]
    if aliases:
        raise ValueError(
            f"before shares memory with the model in {some(aliases)}: it holds the present weights, not the old ones; "
            "copy it before training, copy.deepcopy(model.state_dict())"
        )
    buffer_names = buffers_of(plain)
    after = copied(live)
    amounts = tuple(amounts)
    check(before, after, amounts, buffers)

    def walk() -> Iterator[tuple[float, nn.Module]]:
        try:
            for amount in amounts:
                plain.load_state_dict(between(before, after, amount, buffers, buffer_names.__contains__))
                yield amount, model
        finally:
            plain.load_state_dict(after)

    return walk()
