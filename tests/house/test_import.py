"""``import forgetting`` in a fresh process: cheap, quiet, and without a trace on anything global."""

import json
import subprocess
import sys

OPTIONAL = {
    "accelerate", "avalanche", "datasets", "lightning", "matplotlib", "pandas", "peft", "PIL", "pyarrow",
    "pytorch_lightning", "ray", "sklearn", "tensorboard", "timm", "torchvision", "transformers", "triton", "wandb",
}

STATE = """
import json, logging, os, random, signal, sys, warnings
import click, jinja2, numpy, rich.console, rich.table, rich.progress, safetensors.torch, scipy.stats, torch

def state():
    return {
        "random": repr(random.getstate()),
        "numpy": repr(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "gradients": torch.is_grad_enabled(),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic,
                          torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()],
        "printing": repr(vars(torch._tensor_str.PRINT_OPTS)) + repr(numpy.get_printoptions()),
        "cuda": torch.cuda.is_initialized(),
        "warnings": repr(warnings.filters) + repr(warnings.showwarning),
        "logging": [repr(logging.root.handlers), logging.root.level, repr(logging.lastResort),
                    logging.root.manager.disable],
        "folder": os.getcwd(),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "hooks": [repr(sys.excepthook), repr(sys.displayhook), repr(sys.meta_path), repr(sys.path_hooks)],
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "module": sorted(vars(torch.nn.Module)), "tensor": sorted(vars(torch.Tensor)),
        "optimizer": [sorted(vars(torch.optim.Optimizer)), repr(torch.optim.Optimizer._optimizer_step_pre_hooks)
                      if hasattr(torch.optim.Optimizer, "_optimizer_step_pre_hooks") else ""],
        "dataset": sorted(vars(torch.utils.data.Dataset)),
        "limits": [sys.getrecursionlimit(), sys.flags.optimize],
    }

before = state()
import forgetting
after = state()
print(json.dumps({name: [str(before[name])[-400:], str(after[name])[-400:]]
                  for name in before if before[name] != after[name]}))
"""

LOADED = """
import json, sys
import torch
before = set(sys.modules)
import forgetting
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

SECONDS = """
import json, time
start = time.process_time()
import torch
middle = time.process_time()
import forgetting
print(json.dumps((time.process_time() - start) / (middle - start)))
"""


def fresh(code: str) -> object:
    """What a program prints, in a process of its own, read as JSON; it may print nothing else."""
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_f25_an_import_changes_nothing_global():
    assert fresh(STATE) == {}


def test_an_import_loads_no_optional_package():
    assert not set(fresh(LOADED)) & OPTIONAL


def test_an_import_takes_about_the_time_of_torch():
    ratios = [fresh(SECONDS) for _ in range(3)]
    assert min(ratios) < 1.3, f"importing forgetting after torch multiplies torch's import time by {ratios}"
