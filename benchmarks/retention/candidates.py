"""What is tried for a pretrained model: four rates for plain fine-tuning, five settings for every method."""

from __future__ import annotations

from typing import Any

from forgetting.protocol import Method

FIRST_SEED = 1000  # of choosing; no table reports it
SHARE = 0.2  # of each task's examples, which replay keeps


def _each(setting: str, *values: float, **fixed: Any) -> tuple[dict[str, Any], ...]:
    return tuple({**fixed, setting: value} for value in values)


RATES: dict[str, tuple[float, ...]] = {"vision": (0.0003, 0.001, 0.003, 0.01),
                                       "text": (1e-5, 3e-5, 1e-4, 3e-4)}
CANDIDATES: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    "vision": {
        "l2sp": _each("strength", 0.01, 0.03, 0.1, 1.0, 10.0),
        "ewc": _each("strength", 1e3, 1e4, 1e5, 1e6, 1e7, labels="sampled", examples=300, mode="proximal"),
        "kl": _each("strength", 0.03, 0.1, 0.3, 0.5, 1.0),
        "wise-ft": _each("amount", 0.3, 0.5, 0.7, 0.8, 0.9),
        "freeze": _each("depth", 10, 40, 80, 90, 98),
        "replay": _each("strength", 0.01, 0.03, 0.1, 0.3, 1.0, share=SHARE),
    },
    "text": {
        "l2sp": _each("strength", 0.1, 1.0, 3.0, 10.0, 30.0),
        "ewc": _each("strength", 1e1, 1e2, 1e3, 1e4, 1e5, labels="sampled", examples=300),
        "kl": _each("strength", 0.3, 1.0, 3.0, 10.0, 30.0),
        "wise-ft": _each("amount", 0.1, 0.3, 0.5, 0.7, 0.9),
        "freeze": _each("depth", 5, 25, 45, 50, 52),
        "replay": _each("strength", 0.1, 0.3, 1.0, 3.0, 10.0, share=SHARE),
    },
}
MOVING = Method("finetune-moving")  # plain fine-tuning whose norm statistics move
