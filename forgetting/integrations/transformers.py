"""Any regularizer of this library in transformers' Trainer, and in TRL's, which inherit it. Needs the extra ``hf``."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forgetting.parameters import Handle
from forgetting.regularizers import QuadraticRegularizer, Regularizer

_attached: WeakKeyDictionary[Optimizer, set[str]] = WeakKeyDictionary()


def as_trainer_callback(regularizer: Regularizer, *, mode: str = "gradient") -> Any:
    """A regularizer as a callback: ``Trainer(…, callbacks=[as_trainer_callback(regularizer)])``.

    =========== ===================================================================================================
    mode        what happens, and what it needs
    =========== ===================================================================================================
    "gradient"  λF(θ−θ*) is added to the gradients of each step; any Trainer
    "proximal"  after the step θ ← θ − aF(I+aF)⁻¹(θ−θ*); any Trainer
    "loss"      the penalty's gradient comes with the loss's: for methods that look at inputs and outputs (LwF, KL,
                feature distillation). No callback can do that: ``class Held(PenaltyInLoss, Trainer): pass``
    =========== ===================================================================================================

    **Where the pull stands.** Trainer clips (``max_grad_norm``, 1.0 unless told otherwise), then steps: the pull is
    added right before the step of the optimizer that accelerate wraps, so it is OUTSIDE the clip, and a path method
    hears clipped gradients. In mode "loss" it is inside. It is added once a step, whatever
    ``gradient_accumulation_steps`` (fault F17) and however the loss is normalised, and not at all at a step that a
    ``GradScaler`` skips. ``grad_norm`` in the log is the task's alone.

    **The log** gains ``penalty/CLASS`` in the rows that hold ``loss``, which stays the task's own: in modes "gradient"
    and "proximal" at the weights that the last step left, in "loss" the mean over the row's steps. Trainer calls
    reporters (wandb, tensorboard) before other callbacks; ``trainer.callback_handler.callbacks.insert(0, callback)`` in
    place of ``callbacks=`` lets them see it.

    **State.** Each checkpoint gains ``penalty-CLASS.pt``: what was consolidated, and the path so far.
    ``train(resume_from_checkpoint=…)`` reads it back into a new regularizer, which need not be consolidated again.
    Trainer does not say where the checkpoint lies: it is looked for in ``output_dir``; call ``callback.load(folder)``
    before for one that lies elsewhere.

    **The end.** The hooks go when training ends. An exception ends no training that a callback would hear of:
    ``callback.remove()``, or ``with callback:`` around ``train``, takes them off then; another ``train`` replaces them.

    Args:
        regularizer: consolidated before ``train``, or by the checkpoint that is resumed; a path method may come as it
            is, and is consolidated after ``train``.
        mode: see above; one of ``regularizer.modes``.

    Returns:
        A ``TrainerCallback`` with ``remove()`` and ``load(folder)``; it is a context manager.

    Raises:
        TypeError: for what is no regularizer.
        ValueError: for a mode that it does not offer. From ``train``: under DeepSpeed ZeRO-3, where weights are cut in
            pieces; where another callback holds a regularizer of the same class; as
            :meth:`~forgetting.Regularizer.attach`.
        RuntimeError: from ``train`` in mode "loss", where nothing adds the penalty.
        FileNotFoundError: from ``train``, for a checkpoint without the regularizer's state, or none to save it in.
        ModuleNotFoundError: without transformers; the extra ``hf`` brings it.

    Warns:
        UserWarning: from ``train``, where nothing was consolidated and nothing will be held.

    **Cost**: that of the mode (see :meth:`forgetting.Regularizer.attach`), of one penalty a logged row, and of a file
    as large as the state a checkpoint.

    Example:
        >>> callback = as_trainer_callback(ewc)                                       # doctest: +SKIP
        >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(f"as_trainer_callback takes a Regularizer, such as forgetting.EWC(strength=30.0), not a "
                        f"{type(regularizer).__name__}")
    if mode not in regularizer.modes:
        name, offered = type(regularizer).__name__, ", ".join(regularizer.modes)
        way = ("; in mode 'loss' it looks at inputs and outputs, which no callback sees: as_trainer_callback(…, "
               "mode='loss') with `class Held(PenaltyInLoss, Trainer): pass`" if "loss" in regularizer.modes else "")
        raise ValueError(f"mode={mode!r} is not possible for {name}, which offers {offered}{way}")
    return _kind()(regularizer, mode)


@functools.cache
def _kind() -> type[Pull]:
    """The callback's class, made when transformers are there."""
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ModuleNotFoundError("a Trainer's callback needs the extra 'hf': pip install 'forgetting[hf]'",
                                  name="transformers") from error
    return type("ForgettingCallback", (Pull, TrainerCallback), {"__doc__": Pull.__doc__})


class Pull(Handle):
    """What :func:`as_trainer_callback` gives: called by a Trainer; ``remove()`` and ``load(folder)`` are for you.

    Args:
        regularizer: whose pull it brings.
        mode: how.
    """

    def __init__(self, regularizer: Regularizer, mode: str) -> None:
        super().__init__(lambda: None)
        self.regularizer, self.mode = regularizer, mode
        self.label = type(regularizer).__name__
        self._loaded = self._spoken = False
        self._terms: list[Tensor] = []
        self._since = 0

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Read the regularizer's state out of a checkpoint's folder; ``train`` then looks for none."""
        path = Path(folder) / f"penalty-{self.label}.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"the checkpoint has no {path}, so what {self.label} knew is lost: resume from one that was saved with "
                "this callback (callback.load(folder) where it lies outside output_dir), or begin a new training from "
                "the checkpoint's model"
            )
        self.regularizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._loaded = True

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any,
                       **others: Any) -> None:
        """Attach to the optimizer, which exists from now on; in a resumed run, take the state up first."""
        self.remove()
        _refuse_pieces(model)
        if state.global_step > 0 and not self._loaded:
            self.load(_checkpoint(args, state))
        known = self.regularizer
        if isinstance(known, QuadraticRegularizer) and not known.listens and known.consolidated is None:
            warnings.warn(f"{self.label} was not consolidated, so it holds nothing: call consolidate(model, "
                          "source_batches) before train, or resume a checkpoint that has its state", stacklevel=2)
        self._loaded, self._terms, self._since = False, [], state.global_step
        inner = _stepping(optimizer)
        held = _attached.setdefault(inner, set())
        if self.label in held:
            raise ValueError(f"another callback has attached a {self.label} to this optimizer: one regularizer of a "
                             "class is enough (parameters= may cover more); of a training that broke off, remove() "
                             "the callback")
        attached = known.attach(model, inner, mode=self.mode)
        held.add(self.label)

        def undo() -> None:
            attached.remove()
            held.discard(self.label)

        self._undo = undo

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Raise in mode "loss" where no loss of this step held the penalty."""
        if self.mode == "loss" and not self._spoken:
            raise RuntimeError(f"{self.label} in mode 'loss' acts through the loss, and this Trainer's does not hold "
                               "its penalty: stand PenaltyInLoss before it, `class Held(PenaltyInLoss, Trainer): pass`")
        self._spoken = False

    def on_log(self, args: Any, state: Any, control: Any, *, model: nn.Module, logs: dict[str, Any] | None = None,
               **others: Any) -> None:
        """Add the penalty to a row of the training, and to the history."""
        if logs is None or "loss" not in logs:
            return
        if self.mode == "loss":
            value = float(torch.stack(self._terms).sum()) / max(state.global_step - self._since, 1)
            self._terms, self._since = [], state.global_step
        else:
            with torch.no_grad():
                value = self.regularizer.penalty(model).item()
        logs[f"penalty/{self.label}"] = value
        state.log_history[-1][f"penalty/{self.label}"] = value

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Put the regularizer's state into the checkpoint that was just written."""
        if not args.should_save:
            return
        folder = _checkpoint(args, state)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there, so {self.label} cannot be saved with its checkpoint; in a "
                                    "hyperparameter search, whose trials save elsewhere, take save_strategy='no'")
        path = folder / f"penalty-{self.label}.pt"
        part = path.with_suffix(".part")
        torch.save(self.regularizer.state_dict(), part)
        part.replace(path)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Take the hooks off."""
        self.remove()

    def term(self, model: nn.Module, inputs: Any, outputs: Any, share: float, part: float) -> Tensor:
        """A number 0 with the gradient of the penalty times a share, so that a loss keeps its own value.

        What is logged is the penalty times its part of the step, whoever divides the loss.
        """
        value = self.regularizer.penalty(model, inputs, outputs)
        self._terms.append(part * value.detach())
        self._spoken = True
        return share * (value - value.detach())


class PenaltyInLoss:
    """Brings the penalties of callbacks in mode "loss" into a Trainer's loss; stand it before the Trainer's class.

    The loss keeps its value, which is logged as before, and gains the penalty's gradient: the mean over the
    micro-batches of a step, whether Trainer divides the loss by their number or the loss comes divided by the step's
    items (fault F17: a penalty that is just added there counts once a micro-batch). In evaluation nothing is added.

    **Cost**: that of the penalty, once a micro-batch.

    Example:
        >>> class Held(PenaltyInLoss, Trainer): pass                                  # doctest: +SKIP
        >>> callback = as_trainer_callback(lwf, mode="loss")                          # doctest: +SKIP
        >>> Held(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
    """

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None, **others: Any) -> Any:
        """The loss of the class behind, with the penalties' gradients in training."""
        trainer: Any = self
        below: Any = super()
        pulls = [callback for callback in trainer.callback_handler.callbacks
                 if isinstance(callback, Pull) and callback.mode == "loss"]
        if not (model.training and pulls):
            return below.compute_loss(model, inputs, return_outputs, num_items_in_batch, **others)
        seen = dict(inputs)  # a copy: Trainer takes labels out of what it gets
        if trainer.model_accepts_loss_kwargs and num_items_in_batch is not None:
            seen["num_items_in_batch"] = num_items_in_batch  # as the model itself sees it, so that a listener knows it
        loss, outputs = below.compute_loss(model, inputs, True, num_items_in_batch, **others)
        share = _share(trainer, num_items_in_batch)
        for pull in pulls:
            loss = loss + pull.term(model, seen, outputs, share, 1 / trainer.current_gradient_accumulation_steps)
        return (loss, outputs) if return_outputs else loss


def _share(trainer: Any, items: Any) -> float:
    """What a micro-batch's penalty counts before Trainer divides, or does not divide, the loss."""
    if not hasattr(trainer, "loss_is_scaled_for_ga"):
        raise RuntimeError("this release of transformers does not say whether it divides the loss by the number of "
                           "micro-batches (loss_is_scaled_for_ga), so a penalty in the loss could count several times: "
                           "use transformers 5.23 or newer, or a regularizer that offers mode='gradient'")
    scaled = trainer.loss_is_scaled_for_ga
    if scaled is None:
        scaled = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
    return 1 / trainer.current_gradient_accumulation_steps if scaled else 1.0


def _checkpoint(args: Any, state: Any) -> Path:
    """Where Trainer keeps the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _stepping(optimizer: Any) -> Any:
    """The optimizer that steps, inside what accelerate puts around it: only its hooks run."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _refuse_pieces(model: nn.Module) -> None:
    """Raise under DeepSpeed ZeRO-3, which marks its parameters by ``ds_id``."""
    found = next((name for name, weight in model.named_parameters() if hasattr(weight, "ds_id")), None)
    if found is not None:
        raise ValueError(f"DeepSpeed ZeRO-3 cuts the weights in pieces (the first: {found!r}): between two uses a "
                         "parameter is empty, and the engine steps flat pieces of its own, so that no penalty sees the "
                         "weights and no pull reaches them. Train with DDP, or with FSDP2 in a loop of your own")
