"""The rules' sums on a GPU, in Triton: one file a rule, with the signature of the rule.

Every kernel accumulates one example's product in registers, raises it to the power and adds it to a running sum, so
that nothing of size examples × weights is ever written. No kernel uses an atomic, and tiles are chosen by shape,
never by a stopwatch: the same call on the same device gives the same bits.

Triton is imported by the modules in here and by nothing else; ``import forgetting`` does not load them.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def serve(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: on a CUDA device, in a type of theirs, and with Triton installed."""
    return all(tensor.is_cuda and tensor.dtype in TYPES for tensor in tensors) and _installed()


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
