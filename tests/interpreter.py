"""Calls a kernel where it can run: on the GPU if there is one, else in Triton's interpreter.

The interpreter is a process of its own, since whoever has imported Triton already cannot turn to it any more.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# Of a whole tensor, by the type of what is read: products of 16-bit numbers are exact in float32, where all is summed.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
# Of a whole tensor, by the type of what is written; the interpreter cuts bfloat16 off where a device rounds.
STORED = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
SECONDS = 200


def run(function: str, *args: Any, **keywords: Any) -> tuple[Any, ...]:
    """What ``function``, by its full name, returns, and its arguments afterwards, which it may have changed."""
    if torch.cuda.is_available():
        place = functools.partial(pytree.tree_map_only, Tensor)
        with torch.backends.cudnn.flags(allow_tf32=False):
            return place(Tensor.cpu, call(function, *place(Tensor.cuda, (args, keywords))))
    # By value: memory that two processes share costs a file a tensor, and forgets strides that overlap.
    sent = pickle.dumps((function, args, keywords))
    return pickle.loads(_interpreter().submit(_answer, sent).result(SECONDS))


def call(function: str, args: Sequence[Any], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """The call itself, in whichever process."""
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(module), name)(*args, **keywords), *args


def _answer(sent: bytes) -> bytes:
    return pickle.dumps(call(*pickle.loads(sent)))


@functools.cache
def _interpreter() -> ProcessPoolExecutor:
    """One process for all tests, which ends with them."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start)


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def error(found: Tensor, true: Tensor) -> float:
    """‖found − true‖ / ‖true‖."""
    return float((found.double() - true).norm() / true.norm().clamp(min=1e-30))
