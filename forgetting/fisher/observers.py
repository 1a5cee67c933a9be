"""What a Kronecker-factored estimate watches for in a pass over the data: moments, then spectra."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import torch
from torch import Tensor

from forgetting.curvature import Eigen, Factors
from forgetting.fisher.capture import Use
from forgetting.fisher.distributed import Ranks
from forgetting.fisher.moments import Layer, counts, factored, moment, of_gradients, of_inputs, positions
from forgetting.fisher.rules import widened
from forgetting.fisher.rules.embedding import Embedding
from forgetting.fisher.rules.linear import Linear
from forgetting.parameters import Parameters


@dataclass
class _Sums:
    """Σ xxᵀ, over how many positions, and Σ ggᵀ of one layer, a group each."""

    a: Tensor
    count: Tensor
    g: Tensor


@dataclass
class Moments:
    """Observes the uses that are linear maps and sums up their two second moments.

    Args:
        parameters: live, by name.
        sharing: ``"expand"`` or ``"reduce"``.
        memory: bytes that unfolded inputs may take.
        without: parameters to leave to the diagonal.
    """

    parameters: Parameters
    sharing: str
    memory: int
    without: Collection[str] = ()
    sums: dict[Layer, _Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._counted: WeakSet[Use] = WeakSet()

    def takes(self, use: Use, slot: str, name: str) -> bool:
        """A parameter of a linear map."""
        return name not in self.without and factored(use, slot, self.parameters)

    def see(self, use: Use, sources: Mapping[str, Tensor], gradient: Tensor, slots: Mapping[str, str]) -> None:
        """Add one cotangent's gradients; the inputs at the first of a batch."""
        first, (layer, part) = use not in self._counted, Layer.of(use, slots, self.parameters)
        self._counted.add(use)
        if isinstance(use.rule, Embedding):
            tokens, flat = Embedding.flat(sources, widened(gradient))
            a = counts(tokens, layer.shape[0], use.call.get("padding_idx"), self.sharing, flat.dtype) if first else None
            self._add(layer, part, a, flat.unsqueeze(2))
            return
        for x, g in positions(use, sources, gradient, slots, part.stop - part.start, self.memory):
            self._add(layer, part, moment(of_inputs(x, self.sharing)) if first else None, g)

    def _add(self, layer: Layer, part: slice, a: Tensor | None, g: Tensor) -> None:
        """Add Σ xxᵀ, where it comes with these gradients, and Σ ggᵀ to some groups."""
        squares = moment(of_gradients(g, self.sharing))
        if layer not in self.sums:
            assert a is not None
            self.sums[layer] = _Sums(a.new_zeros(layer.groups, *a.shape[1:]),
                                     torch.zeros(layer.groups, dtype=torch.float64, device=a.device),
                                     squares.new_zeros(layer.groups, *squares.shape[1:]))
        sums = self.sums[layer]
        sums.g[part] += squares
        if a is not None:
            sums.a[part] += a
            sums.count[part] += len(g) * (g.shape[1] if self.sharing == "expand" else 1)

    def gather(self, ranks: Ranks) -> None:
        """The sums over all ranks, of which one may not have seen a layer that another has."""
        known: dict[Layer, tuple[torch.Size, torch.Size, torch.dtype]] = {}
        for found in ranks.gather({layer: (one.a.shape, one.g.shape, one.a.dtype) for layer, one in self.sums.items()}):
            known = {**found, **known}
        device = next(iter(self.parameters.values())).device
        for layer, (a, g, dtype) in known.items():
            if layer not in self.sums:
                self.sums[layer] = _Sums(torch.zeros(a, dtype=dtype, device=device),
                                         torch.zeros(a[0], dtype=torch.float64, device=device),
                                         torch.zeros(g, dtype=dtype, device=device))
        self.sums = {layer: self.sums[layer] for layer in known}
        ranks.add_up({f"{'+'.join(layer.names)}, {name}": value for layer, one in self.sums.items()
                      for name, value in vars(one).items()})

    def factors(self, examples: int) -> dict[Layer, Factors]:
        """A, a mean over positions (or examples), and G, a mean over examples of a sum over positions."""
        return {layer: Factors(sums.a / _like(sums.count, sums.a), sums.g / examples)
                for layer, sums in self.sums.items()}


def _like(count: Tensor, a: Tensor) -> Tensor:
    """The divisors, at least 1, of stacked sums."""
    return count.clamp(min=1).to(a).view(-1, *[1] * (a.ndim - 1))


@dataclass
class Spectra:
    """Observes the same uses again and sums up the squares of each example's gradient, seen in the eigenvectors.

    Args:
        parameters: live, by name.
        bases: the eigenvectors of each layer's factors.
        memory: bytes that unfolded inputs and per-example gradients may take.
    """

    parameters: Parameters
    bases: dict[Layer, Eigen]
    memory: int
    sums: dict[Layer, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = {layer: torch.zeros_like(basis.spectrum) for layer, basis in self.bases.items()}

    def takes(self, use: Use, slot: str, name: str) -> bool:
        """What had factors in the first pass."""
        return name in self.parameters

    def see(self, use: Use, sources: Mapping[str, Tensor], gradient: Tensor, slots: Mapping[str, str]) -> None:
        """Add Σ (Q_GᵀGₙQ_A)² over the examples of one cotangent, Gₙ an example's weight gradient."""
        layer, part = Layer.of(use, slots, self.parameters)
        if layer not in self.bases:
            return  # its bias went elsewhere this time, and is found there at the end
        basis, total = self.bases[layer], self.sums[layer]
        if isinstance(use.rule, Embedding):
            g = widened(gradient) @ basis.q_g[0].to(widened(gradient).dtype)
            use.rule.accumulate(sources, g, use.call, {"weight": total[0].T}, 2, self.memory)
            return
        assert basis.q_a is not None
        q_a, q_g, groups = basis.q_a[part], basis.q_g[part], part.stop - part.start
        for x, g in positions(use, sources, gradient, slots, groups, self.memory):
            x, g = x.transpose(1, 2) @ q_a.to(x.dtype), g.transpose(1, 2) @ q_g.to(g.dtype)
            if groups == 1:
                Linear().accumulate({"input": x[:, 0]}, g[:, 0], {}, {"weight": total[part][0]}, 2, self.memory)
            else:
                total[part] += (g.mT @ x).square_().sum(0)

    def gather(self, ranks: Ranks) -> None:
        """The sums over all ranks."""
        ranks.add_up({"+".join(layer.names): total for layer, total in self.sums.items()})

    def eigen(self, examples: int) -> dict[Layer, Eigen]:
        """The eigenvectors with these second moments, means over examples."""
        return {layer: replace(basis, spectrum=self.sums[layer] / examples) for layer, basis in self.bases.items()}
