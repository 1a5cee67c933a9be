"""Any regularizer of this library in any run of Lightning. Needs the extra ``lightning``."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from forgetting.regularizers import QuadraticRegularizer, Regularizer
from forgetting.regularizers.steps import Announced, announced

_PACKAGES = ("pytorch_lightning", "lightning.pytorch")
_REFUSED = {
    "FSDPStrategy": "it flattens the weights (FSDP1), so that none has a name of its own",
    "ModelParallelStrategy": "the state of a callback would be saved as one process's shards; in a loop of your own "
                             "fully_shard works, see docs/integrations/distributed.md",
    "DeepSpeedStrategy": "its engine owns gradients and steps, and no hook of the optimizer sees them; ZeRO-3 leaves "
                         "empty tensors in place of weights, too",
}


def as_lightning_callback(regularizer: Regularizer, *, mode: str = "gradient", part: str | None = None) -> Any:
    """A regularizer as a callback: ``Trainer(callbacks=[as_lightning_callback(regularizer)])``.

    ============== ===============================================================================================
    mode           what happens, and what ``training_step`` returns
    ============== ===============================================================================================
    "gradient"     λF(θ−θ*) is added to the gradients of each step: the task's loss alone
    "proximal"     after the step θ ← θ − aF(I+aF)⁻¹(θ−θ*): the task's loss alone
    "loss"         nothing is pulled, path methods listen: ``loss + regularizer.penalty(self, inputs, outputs)``, which
                   Lightning divides by ``accumulate_grad_batches`` with the rest of the loss
    ============== ===============================================================================================

    **Where the pull stands.** Lightning's steps run forward and backward inside a closure, after any hook that stands
    before the step (fault F18). ``on_before_optimizer_step`` comes when all micro-batches are in the gradients, a
    ``GradScaler``'s factor is out of them, and they are not clipped yet: there path methods listen, then pulls are
    added. So in mode "gradient" the pull is INSIDE ``gradient_clip_val``, as in mode "loss", and a path method hears
    the task's gradient before it is clipped; "proximal" is outside. It is added once a step, whatever
    ``accumulate_grad_batches`` (fault F17). A fused optimizer under ``"16-mixed"`` divides by the factor inside its
    own step; then the pull comes right before that (fault F19), and Lightning offers no clipping.

    **State.** What was consolidated, and the path so far, go into Lightning's checkpoints with the callback, and
    ``fit(ckpt_path=…)`` brings them back into a new regularizer, which need not be consolidated again.

    **Several processes** (``strategy="ddp"``). The pull comes after the gradients were averaged. Every process must
    remember the same: consolidate on all of the data in each, or on ``process_group=``; where they differ the start of
    the training raises.

    Logged as ``penalty/CLASS``, apart from the loss, every ``log_every_n_steps``: its value before the step.

    Args:
        regularizer: consolidated before ``fit``, or by the state that ``ckpt_path`` brings; one that listens to the
            training may come as it is.
        mode: see above; one of ``regularizer.modes``.
        part: the submodule of the LightningModule that was consolidated, such as ``"network"``; ``None``: all of it.
            A file that was written for the bare network has names without ``network.``.

    Returns:
        A ``Callback`` of the Lightning that is loaded, ``pytorch_lightning`` or ``lightning.pytorch``.

    Raises:
        TypeError: for what is no regularizer.
        ValueError: for a mode that it does not offer. From ``fit``, with the reason: for FSDP, ModelParallel and
            DeepSpeed strategies; for LBFGS, which evaluates its closure several times a step; for a part that does not
            exist; for processes that remember different things.
        ModuleNotFoundError: without Lightning; the extra ``lightning`` brings it.

    Warns:
        UserWarning: from ``fit``, where nothing was consolidated and nothing will be held.

    **Cost**: that of the mode (see :meth:`forgetting.Regularizer.attach`), and of one penalty a logged step.

    Example:
        >>> ewc.consolidate(module, source_batches)  # doctest: +SKIP
        >>> Trainer(callbacks=[as_lightning_callback(ewc)]).fit(module, target_batches)  # doctest: +SKIP
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(f"as_lightning_callback takes a Regularizer, not a {type(regularizer).__name__}")
    if mode not in regularizer.modes:
        raise ValueError(f"mode={mode!r}: {type(regularizer).__name__} offers {', '.join(regularizer.modes)}; of a "
                         "method without a closed-form pull add penalty(self, inputs, outputs) to the loss in "
                         "training_step, and use mode='loss'")
    return _class(_package())(regularizer, mode, part)


class LightningCallback:
    """What :func:`as_lightning_callback` gives, beside Lightning's own base: called by a Trainer.

    Args:
        regularizer: whose pull it brings.
        mode: how.
        part: the submodule that it covers.
    """

    def __init__(self, regularizer: Regularizer, mode: str, part: str | None) -> None:
        self.regularizer, self.mode, self.part = regularizer, mode, part
        self._announced: dict[Optimizer, Announced] = {}
        self._undo = ExitStack()

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the state: two regularizers of one class on one part cannot be told apart."""
        return f"forgetting{ {'regularizer': type(self.regularizer).__name__, 'part': self.part} }"

    def state_dict(self) -> dict[str, Any]:
        """What the regularizer remembers."""
        return self.regularizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.regularizer.load_state_dict(state)

    def on_train_start(self, trainer: Any, module: nn.Module) -> None:
        """Attach, once the checkpoint is loaded."""
        known = self.regularizer
        _refuse(trainer, known)
        if isinstance(known, QuadraticRegularizer) and not known.listens and known.consolidated is None:
            warnings.warn(f"{type(known).__name__} was not consolidated, so it holds nothing: call consolidate(module, "
                          "source_batches) before fit, or give fit the ckpt_path of a run that had it", stacklevel=2)
        self._detach()
        with ExitStack() as undo:
            for optimizer in trainer.optimizers:
                undo.enter_context(known.attach(self._covered(module), optimizer, mode=self.mode))
                self._announced[optimizer] = announced(optimizer)
                undo.enter_context(self._announced[optimizer])
            self._undo = undo.pop_all()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """The gradients are there: listen, pull, and log."""
        if trainer.scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
            self._announced[optimizer].arrived()
        if trainer.log_every_n_steps and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            with torch.no_grad():
                self._log(module)

    def on_train_end(self, trainer: Any, module: nn.Module) -> None:
        """Detach."""
        self._detach()

    def on_exception(self, trainer: Any, module: nn.Module, exception: BaseException) -> None:
        """Detach, whatever happened."""
        self._detach()

    def _covered(self, module: nn.Module) -> nn.Module:
        """The part that the regularizer covers."""
        if self.part is None:
            return module
        try:
            return module.get_submodule(self.part)
        except AttributeError as error:
            parts = ", ".join(name for name, _ in module.named_children())
            raise ValueError(f"part={self.part!r}: {type(module).__name__} has no such submodule; it has {parts}"
                             ) from error

    def _log(self, module: Any) -> None:
        """The penalty of a method on weights; one on what the model computes is the training step's to log."""
        if isinstance(self.regularizer, QuadraticRegularizer):
            value = self.regularizer.penalty(self._covered(module))
            module.log(f"penalty/{type(self.regularizer).__name__}", value, on_step=True, on_epoch=False)

    def _detach(self) -> None:
        self._undo.close()
        self._announced.clear()


def _refuse(trainer: Any, regularizer: Regularizer) -> None:
    """Raise for strategies, optimizers and processes under which the pull would be another, or none."""
    kinds = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    refused = next((kind for kind in kinds if kind in _REFUSED), None)
    if refused is not None:
        raise ValueError(f"{refused} is not supported: {_REFUSED[refused]}")
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        raise ValueError("LBFGS evaluates its closure several times a step, and a pull, or a path, belongs to a step: "
                         "use another optimizer, or add penalty(self) to the loss without a callback")
    if trainer.world_size > 1:
        _agree(regularizer)


def _agree(regularizer: Regularizer) -> None:
    """Raise, on every process alike, where they remember different things and would drift apart."""
    mine = _sums(regularizer.state_dict())
    everybody: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybody, mine)
    apart = [rank for rank, theirs in enumerate(everybody) if theirs != everybody[0]]
    if apart:
        raise ValueError(f"the {type(regularizer).__name__} of process {apart[0]} remembers something else than that "
                         "of process 0, so that their weights would drift apart: consolidate on the same data in every "
                         "process, or on shares of it with fisher.anchored(…, process_group=…) and curvature=")


def _sums(state: Any) -> Any:
    """A nest of tensors with the sum of each in its place."""
    if isinstance(state, dict):
        return {key: _sums(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_sums(value) for value in state]
    return float(state.double().sum()) if isinstance(state, torch.Tensor) else state


def _package() -> str:
    """The Lightning that is loaded, or can be."""
    loaded = next((name for name in _PACKAGES if name in sys.modules), None)
    if loaded is not None:
        return loaded
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
        else:
            return name
    raise ModuleNotFoundError("training with Lightning needs the extra 'lightning': pip install "
                              "'forgetting[lightning]'", name=_PACKAGES[0])


@functools.cache
def _class(package: str) -> type:
    """Our callback with a package's own as its base."""
    return type("RegularizerCallback", (LightningCallback, sys.modules[package].Callback), {})
