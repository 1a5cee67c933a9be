"""A run with layer-wise rates, a schedule and gradual unfreezing, whole or continued: ``python -m … FOLDER``."""

import sys
from pathlib import Path

import torch

from forgetting.freezing import gradual_unfreezing
from forgetting.rates import layerwise_decay, warmup_stable_decay
from tests.freezing.models import step
from tests.normed import images, network

STEPS, PAUSE = 14, 5


class Run:
    """Five layers, two steps a phase; a pause in the middle of the third phase."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.model = network()
        self.optimizer = torch.optim.AdamW(layerwise_decay(self.model, 0.02, 0.8, inputs=images()), weight_decay=0.1)
        self.schedule = warmup_stable_decay(self.optimizer, STEPS, warmup=2, decay=4)
        self.unfreezing = gradual_unfreezing(self.model, self.optimizer, every=2, inputs=images())

    def go(self, steps):
        for _ in range(steps):
            step(self.model, self.optimizer, images())
            self.schedule.step()
            self.unfreezing.step()

    def state(self):
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule", "unfreezing")}

    def load(self, state):
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


def main(folder):
    torch.set_num_threads(1)
    run = Run(seed=1)  # other weights than those that are loaded
    run.load(torch.load(folder / "paused.pt", weights_only=True))
    run.go(STEPS - PAUSE)
    torch.save(run.state(), folder / "continued.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
