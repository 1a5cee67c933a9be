"""Says, once a cause, where a pull would overshoot further at every step, or would take a million steps to be felt.

A weight that h = λ·(an eigenvalue of A) + weight decay pulls at moves under SGD with the rate η, the momentum m and the
dampening τ as a linear recursion does, whose roots leave the unit circle where

* plain: η·h > 2,
* with momentum: η·h > 2(1 + m)/(1 − τ),
* Nesterov: η·h > 2(1 + m)/(1 + 2m).

The task's loss adds to h, as far as it is convex. Of Adam and its relatives, whose steps do not grow with the gradient,
nothing is claimed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from forgetting.regularizers.consolidated import Consolidated
from forgetting.regularizers.normalized import INERT
from forgetting.regularizers.steps import Step

if TYPE_CHECKING:
    from forgetting.regularizers.quadratic import QuadraticRegularizer

_FAINT = 1e-9  # a share of a weight's way back, a step


class Peak(NamedTuple):
    """The strongest pull on what some parameter groups move: an eigenvalue, where it is, and the groups' numbers."""

    largest: float
    name: str
    groups: tuple[int, ...]


class Watch:
    """Looks at rates, at the strength and at the largest importances, and never at the weights.

    Args:
        regularizer: whose pull it is.
        model: whose weights are pulled.
        mode: as attached.
    """

    def __init__(self, regularizer: QuadraticRegularizer, model: nn.Module, mode: str) -> None:
        self._regularizer, self._model, self._mode = regularizer, model, mode
        self._state: Callable[[], Consolidated | None] = lambda: None
        self._strength = 0.0
        self._settings: list[tuple[Any, ...]] = []
        self._peaks: list[Peak] = []
        self._told = False

    @staticmethod
    def of(regularizer: QuadraticRegularizer, model: nn.Module, optimizer: Optimizer, mode: str) -> Watch | None:
        """A watch where something can be said: explicit pulls under SGD."""
        return Watch(regularizer, model, mode) if isinstance(optimizer, SGD) and mode != "proximal" else None

    def __call__(self, step: Step) -> None:
        """Stage "finish" of a step; also called when it is attached."""
        state, strength = self._regularizer.consolidated, self._regularizer.strength
        if state is None or strength == 0:
            return
        groups = step.optimizer.param_groups
        settings = [(_rate(group), group["momentum"]) for group in groups]
        new = self._state() is not state or self._strength != strength or len(self._settings) != len(settings)
        if not new and (self._told or settings == self._settings):
            return
        self._settings = settings
        if new:
            self._state, self._strength, self._told = ref(state), strength, False
            self._peaks = self._found(groups)
            self._warn_where_faint(groups, strength)
        for peak in self._peaks:
            if overshoots(peak, groups, strength, waiting=new):
                self._told = True
                self._warn(f"in mode={self._mode!r} {overshoot(peak, groups, strength)}")
                return

    def _found(self, groups: Sequence[Mapping[str, Any]]) -> list[Peak]:
        """One peak a parameter group, or several groups where a block of the matrix reaches over them."""
        try:
            reaching = self._regularizer._reaching(self._model)
        except ValueError:  # of a model that changed: the penalty or the pull raises it, where it is in the way
            return []
        if reaching is None:
            return []
        state, live = reaching
        places = {id(parameter): place for place, group in enumerate(groups) for parameter in group["params"]}
        moved = {name: places[id(weight)] for name, weight in live.items()
                 if weight.requires_grad and id(weight) in places}
        peaks = state.peaks if len(moved) == len(live) else state.curvature.restricted(moved).peaks()
        strongest: dict[tuple[int, ...], Peak] = {}
        for names, largest in peaks.items():
            where = tuple(sorted({moved[name] for name in names}))
            if where not in strongest or largest > strongest[where].largest:
                strongest[where] = Peak(largest, names[0], where)
        return list(strongest.values())

    def _warn_where_faint(self, groups: Sequence[Mapping[str, Any]], strength: float) -> None:
        """Warn where the pull is too weak to matter, however long the training."""
        shares = [(max(_highest(groups[place]) for place in peak.groups) * strength * peak.largest, peak)
                  for peak in self._peaks if peak.largest >= INERT]
        share, peak = max(shares, default=(0.0, None), key=lambda pair: pair[0])
        if peak is not None and 0 < share < _FAINT:
            self._warn(f"is inert: of the way that the weight held hardest (in {peak.name!r}, importance "
                       f"{peak.largest:.1e}) has gone, a step at strength {strength:g} takes back {share:.1e}, less "
                       "than a thousandth in a million steps; raise the strength, or set normalize='mean', under which "
                       "it means the same for every matrix")

    def _warn(self, said: str) -> None:
        warnings.warn(f"{type(self._regularizer).__name__} {said}", stacklevel=4)


def overshoots(peak: Peak, groups: Sequence[Mapping[str, Any]], strength: float, *, waiting: bool) -> bool:
    """Whether SGD's steps grow under a pull; ``waiting``: also where the rate must be read from a GPU."""
    first = groups[peak.groups[0]]
    rate = _rate(first)
    if isinstance(rate, Tensor) and not waiting:
        return False
    if rate * (strength * peak.largest + first["weight_decay"]) <= 1:  # no limit is lower
        return False
    rate, decay, highest = _extremes(peak, groups)
    return rate * (strength * peak.largest + decay) > highest


def overshoot(peak: Peak, groups: Sequence[Mapping[str, Any]], strength: float) -> str:
    """Which figures make SGD's steps grow, and what to do."""
    rate, decay, highest = _extremes(peak, groups)
    pull = f"strength {strength:g} × {peak.largest:.3g}"
    possible = (highest / rate - decay) / peak.largest if peak.largest else 0.0
    remedy = f"lower the strength below {possible:.3g} or the rate" if possible > 0 else "lower the rate"
    return (f"will diverge under SGD: rate {rate:g} × {f'({pull} + weight decay {decay:g})' if decay else pull} = "
            f"{rate * (strength * peak.largest + decay):.3g} is above {highest:.3g}, where each step overshoots the "
            f"anchor further than the one before ({peak.largest:.3g} is the largest importance, in {peak.name!r}; "
            "only what gets no gradient at all, as the columns of another task, stays where it is). "
            f"Attach it with mode='proximal', which is stable at any strength, or {remedy}")


def _extremes(peak: Peak, groups: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Rate, weight decay and limit of a peak's groups: the least, the least and the highest.

    Rates D make of F the matrix D^½FD^½, whose largest eigenvalue is at least the least rate times F's.
    """
    own = [groups[place] for place in peak.groups]
    return (min(float(group["lr"]) for group in own), min(float(group["weight_decay"]) for group in own),
            max(limit(group) for group in own))


def limit(group: Mapping[str, Any]) -> float:
    """Above which rate × curvature SGD's distance to the minimum of a quadratic grows; inf where nothing is claimed."""
    momentum, dampening = group["momentum"], group["dampening"]
    if group.get("maximize", False):
        return math.inf
    if momentum == 0:  # torch reads dampening only where there is momentum
        return 2.0
    if group["nesterov"]:
        return math.inf if dampening else 2 * (1 + momentum) / (1 + 2 * momentum)
    return 2 * (1 + momentum) / (1 - dampening) if dampening < 1 else math.inf


def _highest(group: Mapping[str, Any]) -> float:
    """What a schedule may raise a group's rate to, as far as it says so, times the length of a step at rest."""
    rate = max(float(group[key]) for key in ("lr", "initial_lr", "max_lr") if key in group)
    momentum = group["momentum"]
    return rate * (1 - group["dampening"]) / (1 - momentum) if 0 < momentum < 1 else rate


def _rate(group: Mapping[str, Any]) -> float | Tensor:
    """A group's rate: a number, or a tensor on a GPU, which reading it would make wait."""
    rate = group["lr"]
    return float(rate) if not isinstance(rate, Tensor) or rate.device.type == "cpu" else rate
