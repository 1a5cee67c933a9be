"""The registry: names of methods, what they do to a training loop, and the settings suggested for a sequence."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
import types
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from forgetting.averaging import interpolate, wise_ft
from forgetting.execution import used_and_unused
from forgetting.freezing import freeze as frozen
from forgetting.parameters import Handle
from forgetting.protocol import Method
from forgetting.rates import layerwise_decay as decayed
from forgetting.regularizers import EWC, L2SP, Regularizer
from forgetting.tasks import Task
from forgetting.tasks.unknown import nearest

__all__ = ["describe", "get", "load", "names", "suggested"]

Setting = float | int | str | bool | None


def finetune() -> Method:
    """Plain fine-tuning: nothing is kept on purpose."""
    return Method("finetune")


def small_rate(*, rate: float = 0.1) -> Method:
    """Fine-tuning at a fraction of the rate."""
    return Method("small-rate", {"rate": rate}, rate=rate)


def ewc(*, strength: float = 30.0, labels: str = "exact", anchors: str = "latest", decay: float = 1.0,
        examples: int | None = None, mode: str = "loss") -> Method:
    """Elastic weight consolidation: a pull back, weight by weight as its Fisher information says."""
    settings = {"strength": strength, "labels": labels, "anchors": anchors, "decay": decay, "examples": examples}
    return _regularized("ewc", EWC, settings, mode)


def l2sp(*, strength: float = 0.1, mode: str = "loss") -> Method:
    """L2-SP: the same pull back to the starting point for every weight."""
    return _regularized("l2sp", L2SP, {"strength": strength}, mode)


def freeze(*, depth: int = 1, rate: float = 1.0) -> Method:
    """The first layers stay as they are."""

    def prepare(model: nn.Module, _: Task, inputs: Tensor) -> Handle:
        return frozen(model, depth=depth, inputs=inputs)

    return Method("freeze", {"depth": depth, "rate": rate}, prepare=prepare, rate=rate)


def linear_probe(*, rate: float = 1.0) -> Method:
    """Only the last layer learns."""

    def prepare(model: nn.Module, _: Task, inputs: Tensor) -> Handle:
        last = used_and_unused(model, inputs)[0][-1]
        return frozen(model, keep=lambda name: name in last)

    return Method("linear-probe", {"rate": rate}, prepare=prepare, rate=rate)


def layerwise_decay(*, decay: float = 0.5) -> Method:
    """Rates that fall by a factor a layer, from the output to the input."""

    def groups(model: nn.Module, rate: float, inputs: Tensor) -> list[dict[str, Any]]:
        return decayed(model, rate, decay, inputs=inputs)

    return Method("layerwise-decay", {"decay": decay}, groups=groups)


def wise_fine_tuning(*, amount: float = 0.5) -> Method:
    """WiSE-FT: the weights after fine-tuning are interpolated with those before."""

    def average(model: nn.Module, before: Mapping[str, Tensor]) -> None:
        model.load_state_dict(interpolate(before, model.state_dict(), amount))

    return Method("wise-ft", {"amount": amount}, average=average, curve=wise_ft)


def joint(*, rate: float = 1.0) -> Method:
    """Training on all tasks so far, old data included: the ceiling."""
    return Method("joint", {"rate": rate}, joint=True, rate=rate)


_METHODS: dict[str, Callable[..., Method]] = {
    "finetune": finetune, "small-rate": small_rate, "ewc": ewc, "l2sp": l2sp, "freeze": freeze,
    "linear-probe": linear_probe, "layerwise-decay": layerwise_decay, "wise-ft": wise_fine_tuning, "joint": joint,
}


def names() -> tuple[str, ...]:
    """The names of the methods.

    Example:
        >>> names()[:3]
        ('finetune', 'small-rate', 'ewc')
    """
    return tuple(_METHODS)


def describe(name: str) -> str:
    """What a method does, in one line.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: for an unknown name, with the nearest known one.

    Example:
        >>> describe("finetune")
        'Plain fine-tuning: nothing is kept on purpose.'
    """
    return (inspect.getdoc(_maker(name)) or "").splitlines()[0]


def get(name: str, *, sequence: str | None = None, **settings: Setting) -> Method:
    """A method by name.

    Args:
        name: one of :func:`names`.
        sequence: a standard sequence's name: what :func:`suggested` chose for it replaces the defaults.
        settings: the method's own, which win over both.

    Raises:
        ValueError: for an unknown name or setting, with the nearest known one, or a value that does not fit.

    Example:
        >>> get("ewc", strength=100.0).settings["strength"]
        100.0
    """
    maker = _maker(name)
    known = list(inspect.signature(maker).parameters)
    for key in settings:
        if key not in known:
            raise ValueError(nearest(f"setting of {name!r}", key, known) if known
                             else f"{name!r} has no settings, so {key!r} cannot be set")
    chosen = suggested(sequence)["methods"].get(name, {}) if sequence is not None else {}
    return maker(**{**chosen, **settings})


def suggested(sequence: str) -> dict[str, Any]:
    """What was chosen for a sequence, on validation data of seeds that no table reports.

    ``forgetting/chosen.json`` holds a mapping from a sequence's name to ``provenance`` (how and with what it was
    chosen), ``recipe`` (fields of :class:`~forgetting.protocol.Recipe`) and ``methods`` (name -> settings).

    Args:
        sequence: its name.

    Returns:
        These three; empty ones for a sequence for which nothing was chosen.

    Example:
        >>> sorted(suggested("a sequence of my own"))
        ['methods', 'provenance', 'recipe']
    """
    table = resources.files("forgetting") / "chosen.json"
    chosen = json.loads(table.read_text(encoding="utf-8")) if table.is_file() else {}
    return {"provenance": {}, "recipe": {}, "methods": {}, **chosen.get(sequence, {})}


def suggested_recipe(sequence: str) -> dict[str, Any]:
    """The fields of a recipe chosen for a sequence: rate, epochs, batch, …"""
    return dict(suggested(sequence)["recipe"])


def load(reference: str, **settings: Setting) -> Method:
    """A method of your own, from a file or a module.

    The file is read anew at each call, and neither ``sys.path`` nor anything beside the file is changed. A hash of its
    source is among the method's settings, so that a run of an edited file is another run.

    Args:
        reference: ``"file.py:Name"`` or ``"package.module:Name"`` (importable from here). The name is that of a
            :class:`~forgetting.Regularizer` (made with its own default strength, or 1.0), of a
            :class:`~forgetting.protocol.Method`, or of a function that returns one.
        settings: what the class or function is called with; ``mode`` is the method's own.

    Raises:
        ValueError: for a reference of another form, or a name that is not there.
        FileNotFoundError, ModuleNotFoundError: where the file or module is not there.
        TypeError: where the name means something else, or does not take these settings.

    Example:
        >>> load("forgetting.regularizers:L2SP", strength=2.0).settings["strength"]
        2.0
    """
    place, colon, name = reference.rpartition(":")
    if not (place and colon and name.isidentifier()):
        raise ValueError(f"{reference!r} names no method: expected file.py:Class or package.module:Class")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(nearest(f"name in {place}", name, known) if known else f"{place} does not define {name!r}")
    found = getattr(module, name)
    if isinstance(found, type) and issubclass(found, Regularizer):
        method = _own_regularizer(found, reference, settings)
    elif isinstance(found, Method):
        if settings:
            raise TypeError(f"{reference} is a finished Method, so {', '.join(settings)} cannot be set; offer a "
                            "function that takes settings and returns a Method")
        method = found
    elif callable(found) and not isinstance(found, type):
        method = _call(found, reference, settings)
        if not isinstance(method, Method):
            raise TypeError(f"{reference} returned a {type(method).__name__}, expected a Method")
    else:
        raise TypeError(f"{reference} is neither a Regularizer's class nor a Method, nor a function that returns one")
    return dataclasses.replace(method, settings={**method.settings, "source": _source_hash(module)})


def _maker(name: str) -> Callable[..., Method]:
    """What makes a method of that name."""
    if name not in _METHODS:
        raise ValueError(nearest("method", name, _METHODS) + "; one of your own is named file.py:Class")
    return _METHODS[name]


def _regularized(name: str, regularizer: Callable[..., Regularizer], settings: dict[str, Any], mode: str) -> Method:
    """A method of one regularizer, made once here so that wrong settings show at once."""
    regularizer(**settings)
    return Method(name, settings, regularizer=lambda: regularizer(**settings), mode=mode)


def _own_regularizer(found: type[Regularizer], reference: str, settings: dict[str, Any]) -> Method:
    """A method of a user's regularizer."""
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise TypeError(f"{reference} is abstract: it lacks {missing}")
    taken = inspect.signature(found).parameters
    default = taken["strength"].default if "strength" in taken else inspect.Parameter.empty
    settings = {"strength": 1.0 if default is inspect.Parameter.empty else default, **settings}
    mode = str(settings.pop("mode", "loss")) if "mode" not in taken else "loss"
    _call(found, reference, settings)
    return Method(found.__name__, settings, regularizer=lambda: found(**settings), mode=mode)


def _call(found: Callable[..., Any], reference: str, settings: Mapping[str, Any]) -> Any:
    """Call with settings that its signature takes, or say which it takes."""
    signature = inspect.signature(found)
    try:
        signature.bind(**settings)
    except TypeError as error:
        raise TypeError(f"{reference}{signature} cannot be called with {dict(settings)}: {error}") from error
    return found(**settings)


def _module(name: str) -> types.ModuleType:
    """A module that can be imported from here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ModuleNotFoundError(f"there is no module {error.name!r} to import: install it, put its folder on "
                                      "PYTHONPATH, or name its file (file.py:Class)", name=error.name) from error
        raise


def _file(path: Path) -> types.ModuleType:
    """A module made of a file's present source, under a name that no other source has."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (looked in {Path.cwd()})")
    source = path.read_bytes()
    name = f"forgetting_file_{path.stem}_{hashlib.sha256(source + str(path.resolve()).encode()).hexdigest()[:16]}"
    module = types.ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _source_hash(module: types.ModuleType) -> str | None:
    """16 hexadecimal digits of a module's source; None where it has no file."""
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else None
