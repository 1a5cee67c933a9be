"""The contract of every method that works on the side of the loss."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forgetting.curvature import Curvature, restored
from forgetting.parameters import Handle
from forgetting.regularizers.doubled import pulling
from forgetting.regularizers.steps import Action, Step, minimising, optimized, register

MODES = ("loss", "gradient", "proximal")


class Regularizer(ABC):
    """A scalar that grows as a model leaves what it knew: ``loss + regularizer.penalty(model)``.

    A method of your own needs :meth:`consolidate` and :meth:`penalty`, nothing else: it is then trained, stored,
    resumed and tabled like those of the library. Whatever ``consolidate`` keeps on ``self`` (tensors, numbers,
    texts, matrices of :mod:`forgetting.curvature`, and dicts or lists of them) is its state.

    Args:
        strength: λ ≥ 0, what the penalty is multiplied by; settable at any time.

    Attributes:
        modes: how :meth:`attach` can bring the pull to the weights.
        properties: what the contract tests hold the class to beyond the universal properties: ``"anchored"`` (0
            at the weights of ``consolidate``), ``"quadratic"`` in the weights, ``"linear"`` in the strength.
        listens: whether the training before the first :meth:`consolidate` can leave something in its state; where
            it cannot, runs of other methods share that training in a store.
        version: of the state's layout.

    Raises:
        TypeError: where the strength is no number.
        ValueError: where it is negative or not finite.

    **Reference**: none; the interface is ours. **Differs**: nothing.

    Example:
        >>> from forgetting.parameters import named, snapshot
        >>> class Distance(Regularizer):
        ...     anchor = None
        ...     def consolidate(self, model, data=None, *, outputs=None, curvature=None):
        ...         self.anchor = snapshot(named(model))
        ...     def penalty(self, model, inputs=None, outputs=None):
        ...         if self.anchor is None:
        ...             return self.zero(model)
        ...         return self.strength * sum((w - self.anchor[n]).square().sum() for n, w in named(model).items())
        >>> model, distance = nn.Linear(2, 1), Distance(strength=3.0)
        >>> distance.penalty(model).item()
        0.0
        >>> distance.consolidate(model)
        >>> model.bias.data += 1
        >>> round(distance.penalty(model).item(), 4)
        3.0
    """

    modes: ClassVar[tuple[str, ...]] = ("loss",)
    properties: ClassVar[frozenset[str]] = frozenset()
    listens: ClassVar[bool] = True
    version: ClassVar[int] = 1
    _strength: float

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        signature = inspect.signature(cls.penalty)
        try:
            signature.bind_partial(None, None, None, None)
        except TypeError:
            raise TypeError(f"{cls.__name__}.penalty takes {signature}, expected (self, model, inputs=None, "
                            "outputs=None): a training loop calls it with the batch's inputs and the model's outputs"
                            ) from None

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @property
    def strength(self) -> float:
        """λ ≥ 0; 0 is bit-identical to no method."""
        return self._strength

    @strength.setter
    def strength(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"strength is a number, not {value!r}")
        number = float(value)
        if not 0 <= number < math.inf:
            raise ValueError(f"strength is {number}; it must be finite and at least 0")
        self._strength = number

    @abstractmethod
    def consolidate(
        self, model: nn.Module, data: Any = None, *, outputs: Any = None, curvature: Curvature | None = None
    ) -> None:
        """Absorb what the model knows now; before any training, this protects a pretrained model (fault F8).

        Args:
            model: left as found.
            data: an iterable of batches of the task that the model has just learned.
            outputs: the columns of the logits that belong to that task; ``None`` for all.
            curvature: a matrix from a file, in place of ``data``, where the method has a use for one.
        """

    @abstractmethod
    def penalty(self, model: nn.Module, inputs: Any = None, outputs: Any = None) -> Tensor:
        """The scalar to add to the loss: exactly 0, without a graph, before :meth:`consolidate`.

        Args:
            model: on any device, in any dtype.
            inputs: the batch's inputs, for methods that look at what the model computes.
            outputs: the model's outputs on them.
        """

    def attach(self, model: nn.Module, optimizer: Optimizer, *, mode: str = "loss") -> Handle:
        """Bring the pull to the weights at the optimizer's steps, until the handle is removed.

        ============ ================================================ =============================================
        mode         what it does                                     what you do
        ============ ================================================ =============================================
        "loss"       path methods listen; quadratic ones do nothing   add ``penalty(model)`` to the loss
        "gradient"   adds λF(θ−θ*) to the gradients before the step   nothing; the loss stays the task's own
        "proximal"   θ ← θ − aF(I+aF)⁻¹(θ−θ*) after the step          nothing; the loss stays the task's own
        ============ ================================================ =============================================

        **Which equals which.** "gradient" is "loss" wherever the optimizer gets the gradient of loss + penalty
        unchanged: exactly, up to rounding, for every optimizer (momentum, weight decay and Adam included), under
        gradient accumulation and under a ``GradScaler``, fused optimizers included. It is not "loss" under gradient
        clipping (the pull comes after it, unclipped), and not where the term is added to each of k micro-batches
        undivided: that multiplies λ by k (fault F17). "proximal" has, under SGD with or without momentum, dampening
        or Nesterov, the fixed point of "loss" (a = lr·λ·(1−dampening)/(1−momentum), else a = lr·λ), on another path,
        and is stable at any strength, where "loss" diverges above lr·λ·F = 2. Two proximal regularizers on one
        optimizer act one after the other: then the fixed point is off by O(lr·λ). Under Adam and its relatives it is a
        decoupled objective of its own: the pull is not divided by √v.

        A parameter that is frozen or that the optimizer does not hold is left alone; a gradient of ``None`` becomes
        the pull. A ``GradScaler`` that skips a step skips the pull. The hooks live on the optimizer and vanish with
        its last handle; a copied or unpickled optimizer has none.

        Args:
            model: whose parameters are pulled.
            optimizer: which moves them.
            mode: one of the three, see :attr:`modes` for what a class offers.

        Returns:
            A handle, which is a context manager with ``remove()``.

        Raises:
            TypeError: for what is no torch optimizer, such as the model where the two came swapped.
            ValueError: for a mode that the class does not offer, an optimizer that holds none of the model's
                parameters or climbs (``maximize=True``), or where it is attached already.
            RuntimeError: at a step with a closure in "gradient" mode, which would change gradients that the closure
                then overwrites (fault F18).

        Warns:
            UserWarning: once a cause, with the figures. Under SGD, at once and whenever a consolidation, the strength
                or a rate changes: where an explicit pull makes each step overshoot further than the one before (rate ×
                (strength × largest eigenvalue + weight decay) > 2; with momentum m and dampening τ > 2(1+m)/(1−τ);
                Nesterov > 2(1+m)/(1+2m)), and where it is too weak to be felt in a million steps. Of Adam and its
                relatives nothing is claimed. Where a regularizer that pulls by itself has its penalty in the loss, too.

        **Cost**: "loss" and "proximal" nothing before the step; "gradient" and "proximal" one pass over the
        weights a step, without a graph. Under SGD the largest importances are looked for once a consolidation.
        """
        if mode not in MODES:
            near = get_close_matches(str(mode), MODES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"mode={mode!r} does not exist: choose one of {', '.join(MODES)}{hint}")
        if mode not in self.modes:
            raise ValueError(
                f"{type(self).__name__} has no closed-form pull, so mode={mode!r} is not possible; it offers "
                f"{', '.join(self.modes)}"
            )
        _refuse_another(model, optimizer)
        if mode != "loss":
            minimising(optimizer)
            held = optimized(optimizer)
            if not any(id(parameter) in held for parameter in model.parameters()):
                raise ValueError("the optimizer holds none of this model's parameters, so nothing would be pulled; "
                                 "attach the optimizer that trains this model")
        actions, watch = self._actions(model, mode), self._watch(model, optimizer, mode)
        with ExitStack() as undo:
            if actions:
                undo.enter_context(register(optimizer, self, actions))
            if mode != "loss":
                undo.enter_context(pulling(self, optimizer))
            if watch is not None:
                watch(Step(optimizer))
                undo.enter_context(register(optimizer, watch, {"finish": watch}))
            return Handle(undo.pop_all().close)

    def state_dict(self) -> dict[str, Any]:
        """What was consolidated, as string-keyed mappings of tensors and plain values; settings are not part of it.

        ``torch.load(weights_only=True)`` reads it back.
        """
        return {"class": type(self).__name__, "version": self.version, **self._learned()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the strength stays as it is.

        Raises:
            ValueError: where the state is another class's or another version's. Nothing is changed then.
        """
        if not isinstance(state, Mapping) or "class" not in state or "version" not in state:
            raise ValueError("this is no state of a regularizer: it lacks 'class' and 'version'")
        if state["class"] != type(self).__name__:
            raise ValueError(f"this is the state of a {state['class']}, and cannot be loaded into a "
                             f"{type(self).__name__}")
        if state["version"] != self.version:
            raise ValueError(f"this state has the layout {state['version']}, and this version of {state['class']} "
                             f"reads {self.version}: consolidate again, or use the version that wrote it")
        self._restore({key: value for key, value in state.items() if key not in ("class", "version")})

    def zero(self, model: nn.Module) -> Tensor:
        """The penalty that is none: a 0 on the model's device, in its dtype (float32 where that has fewer bits)."""
        for parameter in model.parameters():
            return torch.zeros((), device=parameter.device, dtype=torch.promote_types(parameter.dtype, torch.float32))
        return torch.zeros(())

    def _actions(self, model: nn.Module, mode: str) -> dict[str, Action]:
        """Stage -> action of :mod:`forgetting.regularizers.steps`; none for a mere loss term."""
        return {}

    def _watch(self, model: nn.Module, optimizer: Optimizer, mode: str) -> Action | None:
        """What looks at each step for trouble that its settings foretell; none for a mere loss term."""
        return None

    def _learned(self) -> dict[str, Any]:
        """The state of a class that says nothing of its own: its attributes, but the strength."""
        return {name: _packed(value, name) for name, value in vars(self).items() if name != "_strength"}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        """Take over what :meth:`_learned` gave."""
        vars(self).update({name: _unpacked(value) for name, value in learned.items()})


def _refuse_another(model: object, optimizer: object) -> None:
    """Raise for what is no optimizer, such as a wrapper around one, whose hooks would never run."""
    if not isinstance(optimizer, Optimizer):
        swapped = ": model and optimizer came swapped, attach(model, optimizer)" if isinstance(model, Optimizer) else ""
        raise TypeError(f"attach takes a torch.optim.Optimizer, not a {type(optimizer).__name__}{swapped}")
    inside = getattr(optimizer, "optimizer", None)
    if isinstance(inside, Optimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        kind = type(optimizer).__name__
        raise TypeError(f"a {kind} hands its steps on to the optimizer inside, whose hooks alone run: attach(model, "
                        "optimizer.optimizer), or attach the torch optimizer before it is prepared")


def _packed(value: Any, name: str) -> Any:
    """A value as plain data that a file can hold, or an error that names the attribute."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Curvature):
        return value.state_dict()
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _packed(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(entry, f"{name}[…]") for entry in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, which no state_dict holds: keep tensors, numbers, texts, curvatures and "
        "dicts or lists of them on the regularizer, or write _learned and _restore for it"
    )


def _unpacked(value: Any) -> Any:
    """What :func:`_packed` packed; tensors are copies, so that a state and a regularizer never share memory."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return restored(value) if "curvature" in value else {key: _unpacked(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(entry) for entry in value)
    return value
