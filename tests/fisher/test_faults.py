"""Faults of the field, by name: each would pass a test that only looks at signs and shapes."""

import copy

import pytest
import torch
from torch import nn

from forgetting import fisher
from tests import oracles
from tests.cases import CASES, cut
from tests.fisher.estimates import FLOAT64, assert_close, errors, estimate, reference
from tests.oracles import Meaning


class TestF1SquareOfTheBatchMean:
    """Squaring the gradient of a batch mean: the strength then depends on the batch size."""

    SIZES = (1, 3, 9)

    def traces(self, labels):
        return [estimate(CASES["conv"], labels, size, torch.float64).trace() for size in self.SIZES]

    def test_the_trace_does_not_depend_on_the_batch_size(self):
        one, three, nine = self.traces("empirical")
        assert three == pytest.approx(one, rel=FLOAT64)
        assert nine == pytest.approx(one, rel=FLOAT64)

    def test_batched_is_the_fault_by_name(self):
        one, three, nine = self.traces("batched")
        assert one == pytest.approx(estimate(CASES["conv"], "empirical", 9, torch.float64).trace(), rel=FLOAT64)
        assert nine < three < one
        assert nine < 0.7 * one

    @pytest.mark.parametrize("name", ["mlp", "lstm", "class_token", "positions", "bernoulli"])
    def test_the_oracle_would_catch_it(self, name):
        """The fault injected: every empirical comparison fails by orders of magnitude."""
        injected = reference(name, "batched", torch.float64, 7)
        worst = max(errors(injected, reference(name, "empirical", torch.float64)).values())
        assert worst > 1e8 * FLOAT64
        with pytest.raises(AssertionError, match="relative errors above"):
            assert_close(injected, reference(name, "empirical", torch.float64))


class TestF6TrainMode:
    """Estimates in train mode: norm statistics move, dropout adds noise."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()

    def test_train_mode_and_eval_mode_agree(self, model):
        batch = torch.randn(9, 4, dtype=torch.float64) + 2, torch.randint(3, (9,))
        statistics = copy.deepcopy(list(model.buffers()))
        learning = fisher.diagonal(model.train(), [batch])
        assert model.training
        assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers(), strict=True))
        assert_close(learning, fisher.diagonal(model.eval(), [batch]), 0.0)
        assert_close(learning, oracles.fisher(model, cut(batch, 1), meaning=Meaning()))


def test_f7_modes_come_back_one_by_one():
    """``model.train()`` afterwards would wake a norm layer that its owner had put to sleep."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(), nn.Linear(4, 3))).train()
    model[1].eval()
    model[2][0].eval()
    fisher.diagonal(model, [(torch.randn(5, 4), torch.randint(3, (5,)))])
    assert [module.training for module in model.modules()] == [True, True, False, True, False, True]


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_f9_a_short_last_batch_counts_what_it_holds(labels):
    """Dividing by batches × batch size, by N − 1, or by one batch too many."""
    model, batch = CASES["mlp"].build(torch.float64)
    truth = reference("mlp", labels, torch.float64)
    found = fisher.diagonal(model, cut(batch, 4), labels=labels)
    assert [len(targets) for _, targets in cut(batch, 4)] == [4, 4, 1]
    assert found.examples == 9
    assert found.trace() == pytest.approx(sum(float(value.sum()) for value in truth.values()), rel=FLOAT64)


class TestF10ArgmaxAndWeightedLabels:
    """The most probable label presented as the Fisher; each term weighted by p(y|x)."""

    def score(self, weigh):
        model, batch = CASES["mlp"].build(torch.float64)
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for inputs, targets in cut(batch, 1):
            logs = model(inputs)[0].log_softmax(0)
            chosen, weight = weigh(logs, int(targets[0]))
            for name, square in oracles.squared_gradients(logs[chosen], parameters):
                total[name] += weight * square / 9
        return total

    @pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
    def test_none_of_ours_is_either(self, labels):
        found = estimate(CASES["mlp"], labels, 4, torch.float64)
        argmax = self.score(lambda logs, label: (int(logs.argmax()), 1.0))
        weighted = self.score(lambda logs, label: (label, float(logs[label].detach().exp())))
        assert min(errors(found, argmax).values()) > 0.01
        assert min(errors(found, weighted).values()) > 0.01

    def test_the_comparison_itself_finds_the_right_one(self):
        empirical = self.score(lambda logs, label: (label, 1.0))
        assert_close(estimate(CASES["mlp"], "empirical", 4, torch.float64), empirical)


class TestF27ExpandedParameters:
    """Squares taken in place while expanded gradients share their memory."""

    NAMES = ("class_token", "position_embedding", "layer_scale", "temperature", "learned_query")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("labels", ["exact", "empirical"])
    def test_expanded_parameters_are_squared_once(self, name, labels):
        assert_close(estimate(CASES[name], labels, 9, torch.float64), reference(name, labels, torch.float64))

    def test_a_parameter_summed_over_everything(self):
        """Its gradient arrives expanded from one number: every element shares memory."""

        class Offset(nn.Module):
            def __init__(self):
                super().__init__()
                self.offset, self.gate = nn.Parameter(torch.randn(3)), nn.Parameter(torch.ones(1))
                self.head = nn.Linear(4, 1)

            def forward(self, x):
                return torch.cat([self.head(x) * self.gate, self.offset.sum().expand(len(x), 1)], dim=1)

        torch.manual_seed(0)
        model, batch = Offset().double(), (torch.randn(9, 4, dtype=torch.float64), torch.randint(2, (9,)))
        for labels in ("exact", "empirical"):
            truth = oracles.fisher(model, cut(batch, 1), meaning=Meaning(), labels=labels)
            assert_close(fisher.diagonal(model, cut(batch, 4), labels=labels), truth)
