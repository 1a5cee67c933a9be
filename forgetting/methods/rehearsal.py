"""Rehearsal: some examples of what was learned are seen again."""

from __future__ import annotations

import dataclasses

from forgetting.methods.penalties import regularized
from forgetting.protocol import Method
from forgetting.rehearsal import AGEM, DER, Memory, ProxyReplay, Replay


def replay(*, strength: float = 1.0, share: float = 0.05, policy: str = "reservoir") -> Method:
    """Experience replay: a share of each task's examples is learned again beside the new ones."""

    def made(strength: float, share: float, policy: str) -> Replay:
        return Replay(strength, memory=Memory(share, policy=policy))

    return regularized("replay", made, {"strength": strength, "share": share, "policy": policy}, "loss")


def der(*, strength: float = 0.5, labels: float = 0.0, share: float = 0.05) -> Method:
    """Dark experience replay: old examples keep the logits that the model gave them; with labels=, DER++."""

    def made(strength: float, labels: float, share: float) -> DER:
        return DER(strength, labels=labels, memory=Memory(share))

    return regularized("der", made, {"strength": strength, "labels": labels, "share": share}, "loss")


def derpp(*, strength: float = 0.5, labels: float = 1.0, share: float = 0.05) -> Method:
    """DER++: old examples keep the logits that the model gave them, and are learned again by their labels."""
    return dataclasses.replace(der(strength=strength, labels=labels, share=share), name="derpp")


def agem(*, strength: float = 1.0, share: float = 0.05, batch: int = 64) -> Method:
    """A-GEM: what would raise the loss on old examples is taken out of the gradient."""

    def made(strength: float, share: float, batch: int) -> AGEM:
        return AGEM(strength, memory=Memory(share), batch=batch)

    return regularized("agem", made, {"strength": strength, "share": share, "batch": batch}, "loss")


def proxy_replay(*, strength: float = 1.0, temperature: float = 2.0, share: float = 1.0) -> Method:
    """Replay of unlabelled inputs: what the old model said of them is held."""

    def made(strength: float, temperature: float, share: float) -> ProxyReplay:
        return ProxyReplay(strength, temperature=temperature, memory=Memory(share))

    return regularized("proxy-replay", made, {"strength": strength, "temperature": temperature, "share": share}, "loss")
