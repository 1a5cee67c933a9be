"""Features: which modules are listened to, and how, without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from forgetting.execution import _block_owner, _owner, used_and_unused
from forgetting.fisher.batches import tensors
from forgetting.parameters import Handle, Selection, canonical, unwrapped
from forgetting.regularizers.teacher import arguments, called

Features = dict[str, list[Tensor]]


def chosen(model: nn.Module, selection: Selection) -> list[str]:
    """The paths of the modules that patterns (or a function of a path) cover, in order of registration.

    Raises:
        ValueError: where a pattern, or the function, covers none.
    """
    paths = [path for path in modules_of(model) if path]
    if callable(selection):
        found = [path for path in paths if selection(path)]
        if not found:
            raise ValueError(f"modules= covers none of the model's {len(paths)} modules: {_shown(paths)}")
        return found
    patterns = [selection] if isinstance(selection, str) else list(selection or ())
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = get_close_matches(pattern, paths, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"modules={pattern!r} matches none of the model's {len(paths)} modules: "
                             f"{_shown(paths)}{hint}")
    return [path for path in paths if any(fnmatchcase(path, pattern) for pattern in patterns)]


def usual(model: nn.Module, inputs: Any) -> list[str]:
    """A model's outermost repeated blocks; where it has none, all layers with parameters but the last that runs.

    Raises:
        ValueError: where the model has fewer than two such layers.
    """
    inner = unwrapped(model)
    names = [canonical(name) for name, _ in inner.named_parameters()]
    block = _block_owner(inner)
    blocks = list(dict.fromkeys(block(name) for name in names if block(name) != _owner(name)))
    if blocks:
        return blocks
    *before, _ = layers(model, inputs)
    if not before:
        raise ValueError(f"{type(inner).__name__} has a single layer with parameters, so there are no features before "
                         "its head: name what counts with modules=")
    return before


def layers(model: nn.Module, inputs: Any) -> list[str]:
    """The paths of the modules that own parameters, in the order in which a forward pass uses them."""
    positional, named = arguments(inputs)
    used, _ = used_and_unused(unwrapped(model), named or positional)
    return list(dict.fromkeys(path for group in used if (path := _owner(group[0])))) or [""]


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Canonical path -> module, shared ones under their first path."""
    return {canonical(path): module for path, module in unwrapped(model).named_modules()}


def located(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The modules at these paths, or an error that says which one is gone."""
    everything = modules_of(model)
    for path in paths:
        if path not in everything:
            raise ValueError(f"the model no longer has the module {path!r}, whose features are compared; consolidate "
                             "after such a change, or name others with modules=")
    return {path: everything[path] for path in paths}


def features(modules: Mapping[str, nn.Module], run: Callable[[], Any], *, entering: bool = False) -> Features:
    """What modules give out (or, entering, receive) while something runs: path -> a tensor for each call.

    What a later layer overwrites (``ReLU(inplace=True)``, a residual ``x += …``) is copied in a second run.
    """
    for copied in (False, True):
        found: dict[str, list[Heard]] = {path: [] for path in modules}

        def note(path: str, _module: nn.Module, positional: Any, named: Any, output: Any, *,
                 found: dict[str, list[Heard]] = found, copied: bool = copied) -> None:
            value = _first(path, (positional, named) if entering else output)
            found[path].append(Heard.of(value.clone() if copied else value))

        hooks = []
        try:
            for path, module in modules.items():
                hooks.append(module.register_forward_hook(partial(note, path), with_kwargs=True))
            run()
        finally:
            for hook in hooks:
                hook.remove()
        if copied or not _overwritten(found):
            break
    return _values(found)


def now(model: nn.Module, paths: Iterable[str], inputs: Any, listener: Listener | None, *,
        entering: bool = False) -> Features:
    """The features of the model as it is: those that a listener heard, else of a pass of its own in eval mode."""
    paths, found = list(paths), None
    modules = located(model, paths)
    if listener is not None and listener.hears(model):
        listener.hear(paths)
        found = listener.take(inputs)
    if found is None:
        found = features(modules, lambda: called(model, inputs), entering=entering)
        if listener is not None:
            listener.forget()
    for path, module in modules.items():
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in module.parameters())
        if learns and not entering and not all(value.requires_grad for value in found[path]):
            raise ValueError(f"the module {path!r} learns, and what it gives out carries no gradient, so nothing would "
                             "hold it: does it run in a reentrant checkpoint (use_reentrant=False keeps gradients)? Or "
                             "name others with modules=")
    return found


class Heard(NamedTuple):
    """A tensor, and how often it had been overwritten when it was heard."""

    value: Tensor
    version: int

    @classmethod
    def of(cls, value: Tensor) -> Heard:
        return cls(value, value._version)


def _overwritten(found: Mapping[str, list[Heard]]) -> bool:
    """Whether a layer wrote into something after it had been heard."""
    return any(heard.value._version != heard.version for calls in found.values() for heard in calls)


def _values(found: Mapping[str, list[Heard]]) -> Features:
    return {path: [heard.value for heard in calls] for path, calls in found.items()}


class Listener:
    """Hears the training loop's own forward passes, so that a penalty on features needs no second one.

    It keeps what the last pass with gradients gave, until that is taken or the next one begins.
    """

    def __init__(self, model: nn.Module, *, entering: bool = False) -> None:
        self._model, self._entering = unwrapped(model), entering
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._open = False
        self._found: dict[str, list[Heard]] = {}
        self._hooks: list[Any] = []
        self._paths: list[str] = []

    def hears(self, model: nn.Module) -> bool:
        """Whether it is this model that it listens to."""
        return unwrapped(model) is self._model

    def hear(self, paths: Iterable[str]) -> None:
        """From the next forward pass on, listen to these modules."""
        if list(paths) == self._paths:
            return
        self.remove()
        modules = located(self._model, paths)
        self._paths = list(modules)
        self._hooks = [
            self._model.register_forward_pre_hook(Ear(self._begin), with_kwargs=True),
            self._model.register_forward_hook(Ear(self._end), always_call=True),
            *(module.register_forward_hook(Ear(partial(self._note, path, module)), with_kwargs=True)
              for path, module in modules.items()),
        ]

    def take(self, inputs: Any) -> Features | None:
        """The features of the pass on exactly these inputs, once; ``None`` where there was no such pass, or where
        something was overwritten in it."""
        call, found = self._call, self._found
        self.forget()
        if call is None or not _same(call, arguments(inputs)) or any(path not in found for path in self._paths):
            return None
        return None if _overwritten(found) else _values(found)

    def forget(self) -> None:
        """Let go of what was heard."""
        self._call, self._found, self._open = None, {}, False

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._paths = [], []
        self.forget()

    def _begin(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A pass without gradients, such as an evaluation, says nothing about training.
        if torch.is_grad_enabled():
            self.forget()
            self._call, self._open = (positional, named), True

    def _note(self, path: str, expected: nn.Module, module: nn.Module, positional: Any, named: Any,
              output: Any) -> None:
        if self._open and module is expected:  # not where a replica or a shallow copy wears the same hook
            value = _first(path, (positional, named) if self._entering else output)
            self._found.setdefault(path, []).append(Heard.of(value))

    def _end(self, module: nn.Module, positional: Any, output: Any) -> None:
        self._open = False


class Ear:
    """A hook that tells somebody what it hears; copies and pickles of it, as of the model that wears it, are deaf."""

    def __init__(self, note: Callable[..., None] | None) -> None:
        self._note = note

    def __call__(self, *event: Any) -> None:
        if self._note is not None:
            self._note(*event)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ear:
        return Ear(None)

    def __reduce__(self) -> tuple[type[Ear], tuple[None]]:
        return Ear, (None,)


class Listeners:
    """Who listens for whom; a copy of a regularizer has none."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Any, Listener] = WeakKeyDictionary()

    def get(self, owner: object) -> Listener | None:
        """The listener of an owner, if it has one."""
        return self._of.get(owner)

    def put(self, owner: object, listener: Listener, attached: Handle) -> Handle:
        """Give an owner its listener, in place of an earlier one, until the handle is removed, and with it the other.
        """
        earlier = self._of.get(owner)
        if earlier is not None:
            earlier.remove()
        self._of[owner] = listener

        def remove() -> None:
            listener.remove()
            if self._of.get(owner) is listener:
                del self._of[owner]
            attached.remove()

        return Handle(remove)


def _same(one: tuple[tuple[Any, ...], dict[str, Any]], other: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether two calls have the very same arguments, whatever labels came along."""
    named = {key: value for key, value in one[1].items() if key != "labels"}
    return (len(one[0]) == len(other[0]) and all(left is right for left, right in zip(one[0], other[0], strict=True))
            and named.keys() == other[1].keys() and all(named[key] is other[1][key] for key in named))


def _first(path: str, value: Any) -> Tensor:
    """The first tensor of what a module received or gave out."""
    found = next(tensors(value), None)
    if found is None:
        raise TypeError(f"the module {path!r} handles a {type(value).__name__} without a tensor; name others with "
                        "modules=")
    return found


def _shown(paths: list[str]) -> str:
    return ", ".join(paths[:8]) + (", …" if len(paths) > 8 else "")
