"""Kronecker-factored Fisher information: K-FAC in one pass over the data, EK-FAC in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from forgetting.curvature import Block, Diagonal, Eigen, Factors, Kronecker
from forgetting.fisher.accumulate import Accumulator, Adapter
from forgetting.fisher.batches import Batch, Forward, count, default_forward, first, transform
from forgetting.fisher.columns import Columns
from forgetting.fisher.distributed import Ranks
from forgetting.fisher.estimate import (
    MEMORY,
    check_arguments,
    recurrence_without_cudnn,
    refuse_batch_statistics,
    task_columns,
)
from forgetting.fisher.labels import Labels
from forgetting.fisher.likelihoods import Likelihood
from forgetting.fisher.moments import SHARING, Layer
from forgetting.fisher.observers import Moments, Spectra
from forgetting.fisher.progress import shown
from forgetting.fisher.sharded import sharded
from forgetting.parameters import Parameters, Selection, evaluating, named, unwrapped

APPROXIMATIONS = ("kfac", "ekfac")


def kronecker(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    approximation: str = "kfac",
    sharing: str = "expand",
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
    process_group: torch.distributed.ProcessGroup | None = None,
) -> Kronecker:
    r"""The Fisher information by layers: which changes of a layer's weights make up for each other.

    .. math:: F_\text{layer} \approx A \otimes G,\qquad
              A = \mathbb{E}\,[x x^\top],\quad G = \mathbb{E}\,[g g^\top]

    x is a layer's input with a 1 for its bias, g the gradient of log p(y | z) at its output, both expectations means
    over examples. EK-FAC keeps the eigenvectors Q_A and Q_G and replaces the products of eigenvalues by the second
    moments of the gradients there, :math:`\Lambda = \mathbb{E}\,[(Q_G^\top g x^\top Q_A)^2]` (squared entry by
    entry), the best spectrum for these eigenvectors: its trace is that of F.

    Linear maps, convolutions (one block a group), look-ups and attention projections have factors. Norms, raw
    parameters, transposed convolutions, everything that is used twice (shared, tied) and what no rule knows in some
    batch (mixtures of experts, packed tokens) ride along on a diagonal, as :func:`diagonal` computes it; ``.routes``
    says for each parameter which.

    Args:
        model: any module; it is run in eval mode and left as found.
        data: batches, as for :func:`diagonal`. EK-FAC passes over them twice, and both do so again where a layer goes
            another way in some batches; an iterator is used up after one pass.
        approximation: ``"kfac"`` or ``"ekfac"``.
        sharing: how the T positions of an example that share a weight (tokens, places of a convolution's kernel) come
            together. ``"expand"``: A is a mean over positions, G a sum; exact for deep linear models whose positions
            have losses of their own. ``"reduce"``: x is averaged over the positions and g summed; exact for deep
            linear models that average positions before the loss. Of a look-up's averaged inputs only the diagonal of A
            is kept. One position: no difference.
        labels: ``"exact"``, ``"signed"``, ``"sampled"`` or ``"empirical"``, as for :func:`diagonal`.
        likelihood: what the outputs mean; ``None`` serves outputs [examples, classes] with integer targets.
        forward: ``forward(model, batch) -> (outputs, targets)`` for batches or models of another shape.
        outputs: the columns of the last output dimension that belong to the task.
        parameters: patterns or a function of the name; default: every parameter that requires a gradient.
        examples: stop after exactly this many, the FIRST ones.
        tolerance: the share of the predictive covariance's trace that may be dropped, as for :func:`diagonal`.
        generator: draws for ``"sampled"`` and ``"signed"``, the same in both passes; default: a fresh one with seed 0
            (with the rank as seed where there is a ``process_group``).
        memory: bytes that unfolded inputs and per-example gradients may take.
        progress: show a bar for each pass, where the standard error is a terminal.
        process_group: the ``torch.distributed`` processes that call this together, each with data of its own (none is
            fine) and the whole model: all get the estimate over all the data. Nothing is sent without it.

    Returns:
        A :class:`~forgetting.curvature.Kronecker` in float32 or better, on the model's device.

    Raises:
        ValueError: an approximation, sharing or labels of another name; an iterator where another pass is needed; a
            model in shards; and what :func:`diagonal` raises.
        RuntimeError: where another process of the group failed.

    **Cost**: K-FAC: a pass like :func:`diagonal`'s, with products of inputs² and outputs² a position. EK-FAC: two such
    passes, and the eigenvectors of every factor, inputs³ + outputs³. Memory: inputs² + outputs² a layer.

    **Reference**: Martens & Grosse 2015 (arXiv 1503.05671); Grosse & Martens 2016 (arXiv 1602.01407), convolutions;
    Eschenhagen et al. 2023 (arXiv 2311.00636), section 3, weight sharing; George et al. 2018
    (arXiv 1806.03884), EK-FAC.

    **Differs**: no damping, no running averages: means over the whole data. Blocks of layers only, no factors between
    layers. Padded positions count in A, as in the papers.

    Example:
        >>> import forgetting.fisher
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))]
        >>> fisher = forgetting.fisher.kronecker(model, data)
        >>> fisher.names()
        ('0.weight', '0.bias', '1.weight', '1.bias')
        >>> fisher.routes["0.bias"], fisher.routes["1.bias"]
        ('linear (kfac)', 'layer_norm')
    """
    check_arguments(labels, tolerance, examples)
    _check_factors(approximation, sharing, labels)
    model, ranks = unwrapped(model), Ranks(process_group)
    refuse_batch_statistics(model)
    generator = generator or torch.Generator().manual_seed(ranks.rank)
    meaning = _WholeBatches(labels, likelihood, task_columns(outputs), tolerance, generator)
    with evaluating(model), recurrence_without_cudnn(model):
        chosen = named(model, parameters, trainable=parameters is None)
        if any(sharded(value) for value in chosen.values()):
            raise ValueError("the weights lie in shards on several processes, and factors belong to whole layers; "
                             "estimate a diagonal, or factors of the whole model on one process")
        passes = _Passes(Adapter(model, forward or default_forward), data, meaning, examples, memory, progress, ranks,
                         (generator.get_state(), torch.get_rng_state()))
        found, sums = _estimated(passes, chosen, approximation, sharing)
    factored = {name: f"{layer.rule} ({approximation})" for layer in found for name in layer.names}
    routes = ranks.known(sums.routes, "unused") | factored
    blocks = [Block(layer.weight, layer.shape, found[layer], layer.bias, layer.transposed)
              for layer in sorted(found, key=lambda layer: list(chosen).index(layer.weight))]
    return Kronecker(blocks, Diagonal(sums.means(passes.seen, without=factored)), examples=passes.seen, labels=labels,
                     routes=routes)


@dataclass
class _Passes:
    """What every pass over the data shares; ``start`` is where the random generators stood before the first."""

    adapter: Adapter
    data: Iterable[Batch]
    labels: Labels
    examples: int | None
    memory: int
    progress: bool
    ranks: Ranks
    start: tuple[Tensor, Tensor]
    seen: int = 0

    def run(self, parameters: Parameters, observer: Moments | Spectra, *, again: bool) -> Accumulator:
        """The sums of what the observer leaves; drawn labels, and the order of a loader that shuffles, are the same
        each time. ``again``: another pass will follow.
        """
        self.labels.generator.set_state(self.start[0])
        torch.set_rng_state(self.start[1])
        for parameter in self.adapter.parameters():
            parameter.requires_grad_(False)
        for value in parameters.values():
            value.requires_grad_(True)
        sums = Accumulator(self.adapter, parameters, self.labels, self.memory, observer=observer)
        device, known, self.seen = next(iter(parameters.values())).device, self.seen, 0
        limited, visible = first(self.data, self.examples), self.progress and self.ranks.rank == 0
        with self.ranks.together(), shown(self.data, limited, self.examples, visible) as stream:
            if (again or known) and isinstance(self.data, Iterator):
                raise ValueError("the data is an iterator, used up after one pass, and another is needed: EK-FAC looks "
                                 "at gradients in the eigenvectors that it finds first, and both leave out what goes "
                                 "another way in some batches than in others; give a list or a loader")
            for batch in stream:
                sums.add(transform(batch, lambda tensor: tensor.detach().to(device)))
                self.seen += count(batch)
        (self.seen,) = self.ranks.add_up(sums.sums, self.seen)
        observer.gather(self.ranks)
        if not self.seen:
            raise ValueError("the data holds no examples: an iterator that was used up, or an empty loader?")
        return sums


def _estimated(
    passes: _Passes, chosen: Parameters, approximation: str, sharing: str
) -> tuple[Mapping[Layer, Factors | Eigen], Accumulator]:
    """The factors, and the sums of the others; once more where a layer went another way in some batches, without it."""
    twice = approximation == "ekfac"
    without: set[str] = set()
    while True:
        moments = Moments(chosen, sharing, passes.memory, without)
        sums = passes.run(chosen, moments, again=twice)
        mixed = _mixed(sums, list(moments.sums))
        found: Mapping[Layer, Factors | Eigen] = moments.factors(passes.seen)
        if twice and found and not mixed:
            spectra = Spectra({name: chosen[name] for layer in found for name in layer.names},
                              {layer: factors.eigen for layer, factors in found.items()}, passes.memory)
            mixed = _mixed(passes.run(spectra.parameters, spectra, again=False), list(found))
            found = spectra.eigen(passes.seen)
        if not mixed:
            return found, sums
        without |= mixed


def _mixed(sums: Accumulator, layers: list[Layer]) -> set[str]:
    """The parameters of layers with factors that a part of the batches added to the diagonal instead."""
    times = Counter(name for layer in layers for name in layer.names)
    apart = {name for name, number in times.items() if number > 1 or sums.sums[name].any()}
    return {name for layer in layers if not apart.isdisjoint(layer.names) for name in layer.names}


class _WholeBatches(Labels):
    """Sends every cotangent through the whole batch's graph, and zeros where there is none (all labels ignored): each
    example's input counts in A once, however the data was cut.
    """

    def cotangents(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        found = super().cotangents(outputs, targets)
        return list(found.vectors if isinstance(found, Columns) else found) or [torch.zeros_like(outputs)]


def _check_factors(approximation: str, sharing: str, labels: str) -> None:
    """Raise for arguments that only factors have, and for what has none."""
    if approximation not in APPROXIMATIONS:
        raise ValueError(f"approximation={approximation!r} is not one of {', '.join(APPROXIMATIONS)}")
    if sharing not in SHARING:
        raise ValueError(f"sharing={sharing!r} is not one of {', '.join(SHARING)}")
    if labels == "batched":
        raise ValueError('labels="batched" squares the gradient of a whole batch, which has no factors an example; '
                         'choose "exact", "signed", "sampled" or "empirical", or a diagonal')
