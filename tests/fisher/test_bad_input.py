"""Bad input: each gives an error that says what came, what was expected and what to do; nothing is lost."""

import math

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from forgetting import fisher
from forgetting.curvature import NotFinite
from tests import oracles
from tests.cases import CASES, cut
from tests.fisher.estimates import assert_close
from tests.oracles import Meaning

PAIRS = [(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))]


def linear():
    return nn.Linear(4, 3)


def test_no_trainable_parameters():
    with pytest.raises(ValueError, match=r"none of the 2 parameters requires a gradient.*unfreeze"):
        fisher.diagonal(linear().requires_grad_(False), PAIRS)


def test_no_parameters_at_all():
    with pytest.raises(ValueError, match="selects none of the model's 0 parameters"):
        fisher.diagonal(nn.ReLU(), PAIRS)


def test_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match=r"'layer4\.\*' matches none of the 2 parameters: weight, bias"):
        fisher.diagonal(linear(), PAIRS, parameters="layer4.*")


@pytest.mark.parametrize("data", [[], iter(()), [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]])
def test_empty_data(data):
    with pytest.raises(ValueError, match=r"holds no examples.*used up"):
        fisher.diagonal(linear(), data)


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical", "batched"])
@pytest.mark.parametrize("name", ["mlp", "class_token", "merged_position_major", "sequence_first", "conv"])
def test_one_example_works(name, labels):
    model, batch = CASES[name].build(torch.float64)
    one = cut(batch, 1)[0]
    found = fisher.diagonal(model, [one], labels=labels)
    uniforms = torch.rand(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = "empirical" if labels == "batched" else labels
    assert_close(found, oracles.fisher(model, [one], meaning=Meaning(), labels=same, uniforms=uniforms))
    assert found.examples == 1


@pytest.mark.parametrize("label", [3, 77, -1])
def test_labels_outside_the_outputs(label):
    data = [(torch.randn(2, 4), torch.tensor([0, label]))]
    with pytest.raises(ValueError, match=rf"labels outside the outputs: \[{label}\] with the columns \[0, 1, 2\]"):
        fisher.diagonal(linear(), data)


def test_labels_of_another_task():
    with pytest.raises(ValueError, match=r"labels outside the outputs: \[1\] with the columns \[0, 2\].*full outputs"):
        fisher.diagonal(linear(), PAIRS, outputs=(0, 2))


def test_a_column_that_the_model_lacks():
    with pytest.raises(ValueError, match="outputs= names column 7, the model gives 3"):
        fisher.diagonal(linear(), PAIRS, outputs=(0, 7))


@pytest.mark.parametrize("outputs", [(), (-1,), (0, 0)])
def test_columns_that_are_none(outputs):
    with pytest.raises(ValueError, match="outputs= must name columns, each once and from 0 on"):
        fisher.diagonal(linear(), PAIRS, outputs=outputs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical", "batched"])
def test_outputs_that_are_not_finite(bad, labels):
    model = linear()
    with torch.no_grad():
        model.bias[1] = bad
    with pytest.raises(ValueError, match="outputs are not finite; check the weights and the data"):
        fisher.diagonal(model, PAIRS, labels=labels)


def test_a_loss_that_is_not_finite():
    data = [(torch.randn(2, 4), torch.tensor([[0.0, math.nan, 0.0], [1.0, 1.0, 1.0]]))]
    with pytest.raises(ValueError, match="the targets are not finite, so the loss is not"):
        fisher.diagonal(linear(), data, labels="empirical", likelihood=fisher.Gaussian())


def test_a_gradient_that_is_not_finite():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x[:, :3] + self.scale.sqrt()

    with pytest.raises(NotFinite, match="importance of 'scale' holds non-finite numbers"):
        fisher.diagonal(Root(), PAIRS)


def test_batch_statistics():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"1 normalises by the batch even in eval mode.*mixes examples"):
        fisher.diagonal(model, PAIRS)


class Mixing(nn.Module):
    """Lets examples see each other, even in eval mode."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.inner = mix, nn.Linear(4, 3)

    def forward(self, x):
        return self.mix(self.inner(x))


@pytest.mark.parametrize("mix", [
    lambda y: y - y.mean(0),
    lambda y: y / y.norm(),
    lambda y: y / y.abs().max(),
    lambda y: y + y.max(0).values,
    lambda y: y.softmax(0),
    lambda y: y + y.roll(1, 0),
    lambda y: y + (y[3:4] if len(y) > 3 else 0),
    lambda y: nn.functional.dropout(y, 0.5),
], ids=["centred", "norm", "maximum", "maximum a column", "softmax", "neighbour", "fourth", "noise"])
@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_a_module_that_mixes_examples(mix, labels):
    with pytest.raises(ValueError, match=r"outputs of an example change.*mixes examples or draws random numbers"):
        fisher.diagonal(Mixing(mix), PAIRS, labels=labels)


def test_exact_labels_beyond_the_cap():
    wide = nn.Linear(4, 257)
    with pytest.raises(ValueError, match=r'"exact" would take 257 backwards.*256.*use labels="sampled"'):
        fisher.diagonal(wide, PAIRS)
    assert fisher.diagonal(wide, PAIRS, labels="sampled").examples == 6
    assert fisher.diagonal(wide, PAIRS, outputs=range(3)).examples == 6
    assert fisher.diagonal(nn.Linear(4, 256), PAIRS).examples == 6


def test_exact_labels_beyond_the_cap_by_positions():
    data = [(torch.randn(2, 90, 4), torch.zeros(2, 90, dtype=torch.long))]
    with pytest.raises(ValueError, match=r"270 backwards.*90 positions × 3 outputs"):
        fisher.diagonal(linear(), data, likelihood=fisher.Categorical())
    with pytest.raises(ValueError, match=r"267 backwards.*89 positions × 3 outputs"):
        fisher.diagonal(linear(), data, likelihood=fisher.CausalLanguageModel())
    targets = [(data[0][0], torch.zeros(2, 90, 3))]
    with pytest.raises(ValueError, match=r"270 backwards.*sampled"):
        fisher.diagonal(linear(), targets, likelihood=fisher.Gaussian())


def test_a_dict_batch_without_labels():
    with pytest.raises(KeyError, match=r"needs the key 'labels', got .*'input'.*forward="):
        fisher.diagonal(linear(), [{"input": torch.randn(2, 4)}])


@pytest.mark.parametrize("batch", [torch.randn(2, 4), [torch.randn(2, 4)], (torch.randn(2, 4),) * 3])
def test_a_batch_of_an_unknown_kind(batch):
    with pytest.raises(TypeError, match=r"\(inputs, targets\) pair or a dict with 'labels'.*forward="):
        fisher.diagonal(linear(), [batch])


def test_three_dimensional_outputs_without_a_likelihood():
    data = [(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))]
    with pytest.raises(ValueError, match="likelihood=None cannot tell") as caught:
        fisher.diagonal(linear(), data)
    assert all(name in str(caught.value) for name in ("Categorical", "CausalLanguageModel", "Bernoulli", "Gaussian"))


@pytest.mark.parametrize("targets", [torch.zeros(6), torch.zeros(6, 3), torch.zeros(6, 3, dtype=torch.long)])
def test_targets_without_a_likelihood(targets):
    with pytest.raises(ValueError, match=r"likelihood=None cannot tell.*Gaussian"):
        fisher.diagonal(linear(), [(torch.randn(6, 4), targets)])


def test_targets_that_do_not_fit_the_outputs():
    inputs = torch.randn(6, 4)
    with pytest.raises(ValueError, match=r"Categorical expects integer targets of shape \(6,\)"):
        fisher.diagonal(linear(), [(inputs, torch.zeros(6, 2, dtype=torch.long))], likelihood=fisher.Categorical())
    with pytest.raises(ValueError, match=r"Gaussian expects targets of the outputs' shape \(6, 3\), got \(6,\)"):
        fisher.diagonal(linear(), [(inputs, torch.zeros(6))], likelihood=fisher.Gaussian())
    with pytest.raises(ValueError, match=r"Bernoulli expects targets in \[0, 1\]"):
        fisher.diagonal(linear(), [(inputs, torch.full((6, 3), 2.0))], likelihood=fisher.Bernoulli())
    with pytest.raises(ValueError, match=r"outputs \[sequences, positions ≥ 2, vocabulary\]"):
        fisher.diagonal(linear(), PAIRS, likelihood=fisher.CausalLanguageModel())


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_a_variance_that_is_none(variance):
    with pytest.raises(ValueError, match="variance must be positive and finite"):
        fisher.Gaussian(variance)


@pytest.mark.parametrize("labels", ["all", "mc", "true", "Exact", ""])
def test_an_unknown_kind_of_labels(labels):
    with pytest.raises(ValueError, match="is not one of exact, signed, sampled, empirical, reversed, batched"):
        fisher.diagonal(linear(), PAIRS, labels=labels)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match=r"tolerance is a share.*got 1\.0"):
        fisher.diagonal(linear(), PAIRS, tolerance=1.0)
    with pytest.raises(ValueError, match="examples= must be at least 1, got 0"):
        fisher.diagonal(linear(), PAIRS, examples=0)


@pytest.mark.parametrize("labels", ["sampled", "empirical", "batched"])
def test_a_tolerance_that_would_have_no_effect(labels):
    with pytest.raises(ValueError, match=r'tolerance=.*labels="exact"'):
        fisher.diagonal(linear(), PAIRS, labels=labels, tolerance=0.1)


def test_a_model_that_returns_no_tensor():
    class Odd(nn.Linear):
        def forward(self, x):
            return {"scores": super().forward(x)}

    with pytest.raises(TypeError, match=r"returned dict without a tensor \.logits; pass forward="):
        fisher.diagonal(Odd(4, 3), PAIRS)


@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_mixing_is_seen_through_activation_checkpoints(labels):
    """Models that no rule may look at are still looked at for mixing."""

    class Rerun(Mixing):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    with pytest.raises(ValueError, match=r"outputs of an example change.*mixes examples"):
        fisher.diagonal(Rerun(lambda z: z - z.mean(0)), PAIRS, labels=labels)


def test_truth_values_are_no_classes():
    with pytest.raises(ValueError, match=r"likelihood=None cannot tell"):
        fisher.diagonal(linear(), [(torch.randn(2, 4), torch.tensor([True, False]))])
    with pytest.raises(ValueError, match=r"Categorical expects integer targets, got torch\.bool"):
        fisher.diagonal(linear(), [(torch.randn(2, 4), torch.tensor([True, False]))], likelihood=fisher.Categorical())


@pytest.mark.parametrize(("call", "words"), [
    (lambda m: fisher.diagonal(PAIRS, m), "got list; are model and data swapped"),
    (lambda m: fisher.diagonal(type(m), PAIRS), "got the class Linear"),
    (lambda m: fisher.diagonal(m, torch.utils.data.TensorDataset(*PAIRS[0])), "wrap it in a torch.*DataLoader"),
    (lambda m: fisher.diagonal(m, PAIRS[0]), "looks like a single batch: put it in a list"),
    (lambda m: fisher.diagonal(m, fisher.diagonal(m, PAIRS)), r"got a Diagonal.*curvature="),
    (lambda m: fisher.diagonal(m, lambda: PAIRS), "iterable of batches, got a function"),
    (lambda m: fisher.diagonal(m, PAIRS, outputs=2), r"range\(5\).*got 2"),
    (lambda m: fisher.diagonal(m, PAIRS, outputs="0-2"), "got '0-2'"),
    (lambda m: fisher.diagonal(m, PAIRS, likelihood="categorical"), r"such as Categorical\(\)"),
    (lambda m: fisher.diagonal(m, PAIRS, likelihood=fisher.Categorical), r"such as Categorical\(\)"),
], ids=range(10))
def test_arguments_of_another_kind(call, words):
    with pytest.raises(TypeError, match=words):
        call(linear())


def test_inputs_and_targets_of_different_numbers():
    with pytest.raises(ValueError, match=r"shape.*inputs and targets must hold the same number of examples"):
        fisher.diagonal(linear(), [(torch.randn(4, 4), torch.zeros(5).long())])


def test_a_precision_that_is_not_reached_is_said():
    with pytest.warns(UserWarning, match=r"the data ended after 6 examples.*precision 1e-06"):
        fisher.diagonal(linear(), PAIRS, precision=1e-6)
