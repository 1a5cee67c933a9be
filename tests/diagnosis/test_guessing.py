"""A refitted head that is no better than guessing says nothing good of the features."""

import torch
from torch import nn

from forgetting.diagnosis import compare


def test_a_head_that_guesses_among_the_sources_classes_brings_nothing_back():
    """The one informative input is gone, and the new model answers with a class that came later."""
    class Network(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.trunk, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            with torch.no_grad():
                self.trunk.weight.copy_(torch.diag(torch.tensor([scale, 1.0, 1.0, 1.0])))
                self.trunk.bias.fill_(5)
                self.head.weight.zero_()
                self.head.weight[1, 0] = scale
                self.head.bias.copy_(torch.tensor([5.0, 0.0, -99.0 if scale else 99.0]))

        def forward(self, inputs):
            return self.head(torch.relu(self.trunk(inputs)))

    inputs = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    found = compare(Network(1.0), Network(0.0), [(inputs, (inputs[:, 0] > 0).long())])
    (head,) = (each for each in found.recoveries if each.name == "head refitted")
    assert found.after.accuracy == 0
    assert 0.4 < head.accuracy < 0.6
    assert abs(head.share) < 0.15
    assert found.remedy is None
    assert "the features themselves changed" in found.verdict
