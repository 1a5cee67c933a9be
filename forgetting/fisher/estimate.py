"""The one pass over the data: always a mean over examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from forgetting.curvature import Diagonal
from forgetting.fisher.accumulate import Accumulator, Adapter
from forgetting.fisher.batches import Batch, Forward, count, default_forward, first, transform
from forgetting.fisher.distributed import Ranks
from forgetting.fisher.labels import LABELS, Labels
from forgetting.fisher.likelihoods import Likelihood
from forgetting.fisher.precision import following, trace
from forgetting.fisher.progress import shown
from forgetting.fisher.sharded import whole
from forgetting.parameters import Parameters, Selection, evaluating, named, unwrapped

MEMORY = 256 * 2**20


def diagonal(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    labels: str = "exact",
    likelihood: Likelihood | None = None,
    forward: Forward | None = None,
    outputs: Iterable[int] | None = None,
    parameters: Selection = None,
    examples: int | None = None,
    tolerance: float = 0.0,
    generator: torch.Generator | None = None,
    memory: int = MEMORY,
    progress: bool = False,
    precision: float | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
) -> Diagonal:
    r"""The diagonal of the Fisher information: the mean over examples of squared per-example score gradients.

    .. math:: F_i = \frac1N \sum_{n=1}^{N} \mathbb{E}_{y\sim p_\theta(y\mid x_n)}
              \Big[\big(\partial_{\theta_i} \log p_\theta(y \mid x_n)\big)^2\Big]

    θ are the selected weights, xₙ the N examples of ``data``. An example is one input; for sequences one SEQUENCE,
    whose score is the sum over its valid positions. The batch size never enters (``"batched"`` and a
    ``tolerance`` above 0, whose choice of directions is made a batch, apart).

    Args:
        model: any module; it is run in eval mode and left as found.
        data: batches: ``(inputs, targets)`` pairs, or mappings with ``labels``; ragged sizes are fine. Inputs may be a
            tensor, a tuple or a mapping. Moved to the model's device.
        labels: ``"exact"`` takes the expectation over the model's own predictive; ``"signed"`` the same with one
            random sign a position instead of a backward a position, right in the mean; ``"sampled"`` one draw from it;
            ``"empirical"`` the data's label; ``"reversed"`` the data's label too, of outputs with the other sign, which
            is not a Fisher either (EWC-DR); ``"batched"`` the square of the gradient of each batch's MEAN loss,
            averaged over batches, which is not a Fisher and exists to reproduce others.
        likelihood: what the outputs mean; ``None`` serves outputs [examples, classes] with integer targets.
        forward: ``forward(model, batch) -> (outputs, targets)`` for batches or models of another shape.
        outputs: the columns of the last output dimension that belong to the task. Class labels stay numbers of ALL
            columns; targets of a Bernoulli or Gaussian have the chosen columns only.
        parameters: patterns or a function of the name; default: every parameter that requires a gradient.
        examples: stop after exactly this many, the FIRST ones: shuffle data that is sorted by class.
        tolerance: for exact categorical labels, the share in [0, 1) of the predictive covariance's trace that may be
            dropped to save backwards; 0 ≤ F − F̂ then holds elementwise, the error of F̂ itself is not bounded by it.
        generator: draws for ``"sampled"`` and ``"signed"``; default: a fresh one with seed 0 (with the rank as seed
            where there is a ``process_group``).
        memory: bytes that temporary per-example gradients may take.
        progress: show a bar with examples a second, where the standard error is a terminal.
        precision: stop as soon as the relative standard error of the trace, told by how batches differ, is this small;
            16 batches are seen at least, in random order please. Single importances are less certain than their sum.
        process_group: the ``torch.distributed`` processes that call this together, each with data of its own (none is
            fine): all get the estimate over all the data. Shards (FSDP2, ``DTensor``) are gathered, whole on every
            process, for the duration, and the result comes in shards of the same placement. Nothing is sent without it.

    Returns:
        A :class:`~forgetting.curvature.Diagonal` in float32 or better, on the model's device; its ``.routes`` says for
        every parameter which closed form computed it, or ``"vmap"``, ``"loop"``, ``"unused"``; ``.standard_error``
        of the trace where a ``precision`` was asked for, and with signed labels.

    Raises:
        ValueError: no data, no parameters, labels outside the outputs, outputs that are not finite, a model that mixes
            examples, exact labels beyond 256 backwards, outputs whose likelihood cannot be told.
        KeyError: a dict batch without ``labels``.
        TypeError: a batch or a model's return value of an unknown kind.
        UserWarning: (a warning) where the data ends before the asked precision is reached.
        RuntimeError: inside ``torch.inference_mode``; where another process of the group failed.

    **Cost**: one forward, and one backward for sampled and empirical labels; for signed ones a backward a class but
    one, for exact ones that at every position, fewer with a ``tolerance``. A backward costs about as much as an
    ordinary one (docs/speed.md); the first batch adds those of a handful of examples. Memory: that of an ordinary
    forward and backward, one copy of the parameters, and ``memory``; where the first batch is smaller than
    the model, a second copy for a moment. The fallback costs one backward an example.

    **Reference**: Kirkpatrick et al. 2017 (arXiv 1612.00796); van de Ven 2025 (arXiv 2502.11756) compares the labels.

    **Differs**: nothing; a mean over examples, where the paper leaves the scale to λ.

    Example:
        >>> import forgetting.fisher
        >>> model = nn.Linear(2, 3, bias=False)
        >>> data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))]
        >>> fisher = forgetting.fisher.diagonal(model, data, labels="empirical")
        >>> fisher["weight"].shape, fisher.examples, fisher.routes
        (torch.Size([3, 2]), 4, {'weight': 'linear'})
    """
    check_arguments(labels, tolerance, examples)
    generator = generator or torch.Generator().manual_seed(Ranks(process_group).rank)
    return averaged(model, data, Labels(labels, likelihood, task_columns(outputs), tolerance, generator),
                    forward=forward or default_forward, parameters=parameters, examples=examples, memory=memory,
                    progress=progress, precision=precision, process_group=process_group)


def averaged(
    model: nn.Module,
    data: Iterable[Batch],
    meaning: Labels,
    *,
    forward: Forward,
    parameters: Selection,
    examples: int | None,
    memory: int,
    progress: bool,
    process_group: torch.distributed.ProcessGroup | None,
    precision: float | None = None,
    power: int = 2,
) -> Diagonal:
    """The mean over examples of |Jᵀv|^power, summed over the vectors v that ``meaning`` gives; see :func:`diagonal`."""
    ranks, enough = Ranks(process_group), following(precision, process_group, meaning.kind)
    model, batched = unwrapped(model), meaning.kind == "batched"
    refuse_batch_statistics(model)
    batches, seen = 0, 0
    with whole(model, together=process_group is not None) as back, evaluating(model), recurrence_without_cudnn(model):
        chosen = _learning(model, parameters)
        sums = Accumulator(Adapter(model, forward), chosen, meaning, memory, power)
        add = sums.add_batched if batched else sums.add
        device = next(iter(chosen.values())).device
        limited = first(data, examples)
        with ranks.together(), shown(data, limited, examples, progress and ranks.rank == 0) as stream:
            for batch in stream:
                add(transform(batch, lambda tensor: tensor.detach().to(device)))
                batches, seen = batches + 1, seen + count(batch)
                if enough is not None and enough.update(trace(sums.sums), count(batch)):
                    break
        batches, seen = ranks.add_up(sums.sums, batches, seen)
    if not seen:
        raise ValueError("the data holds no examples: an iterator that was used up, or an empty loader?")
    if enough is not None:
        enough.finish()
    means = sums.means(batches if batched else seen)
    return Diagonal(back(means), examples=seen, labels=meaning.kind or None, routes=ranks.known(sums.routes, "unused"),
                    standard_error=enough.standard_error if enough is not None else None)


def _learning(model: nn.Module, parameters: Selection) -> Parameters:
    """The parameters to estimate, the only ones that require gradients from now on."""
    chosen = named(model, parameters, trainable=parameters is None)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for value in chosen.values():
        value.requires_grad_(True)
    return chosen


def recurrence_without_cudnn(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """cuDNN's recurrent layers have no backward pass in eval mode; torch's own have one."""
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return contextlib.nullcontext()


def check_arguments(labels: str, tolerance: float, examples: int | None) -> None:
    """Raise for arguments out of their range, or without effect."""
    check_surroundings(examples)
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r} is not one of {', '.join(LABELS)}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of the predictive trace in [0, 1), got {tolerance}")
    if tolerance and labels != "exact":
        raise ValueError(f'tolerance={tolerance} drops backwards of labels="exact"; labels={labels!r} has none to drop')


def check_surroundings(examples: int | None) -> None:
    """Raise where there are no gradients to be had, or no examples asked for."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("inside torch.inference_mode() there are no gradients to square: leave it, or use "
                           "torch.no_grad(), which is lifted here")
    if examples is not None and examples < 1:
        raise ValueError(f"examples= must be at least 1, got {examples}")


def task_columns(outputs: Any) -> Tensor | None:
    """A task's columns of the outputs."""
    if outputs is None:
        return None
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise TypeError(f"outputs= names columns, such as range(5) or [0, 3], got {outputs!r}")
    columns = list(outputs)
    if not columns or min(columns) < 0 or len(set(columns)) < len(columns):
        raise ValueError(f"outputs= must name columns, each once and from 0 on, got {columns}")
    return torch.tensor(columns)


def refuse_batch_statistics(model: nn.Module) -> None:
    """BatchNorm without running statistics mixes examples even in eval mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name or type(module).__name__} normalises by the batch even in eval mode "
                "(track_running_stats=False), so it mixes examples and there is no gradient of one example; "
                "use running statistics or a norm within the example"
            )
