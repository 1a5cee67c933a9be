"""What every measure refuses, in the same words."""

import pytest
import torch

from forgetting.similarity import cka, frechet, h_score, leep, logme, mmd, nce, proxy_a_distance

OF_FEATURES = {"logme": logme, "h_score": h_score}
OF_SAMPLES = {"cka": cka, "mmd": mmd, "frechet": frechet, "proxy_a_distance": proxy_a_distance}


def features(n=6, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
P = torch.full((6, 2), 0.5)


def calls():
    """Every measure as a function of its first features alone."""
    for name, found in OF_FEATURES.items():
        yield name, lambda x, found=found: found(x, torch.arange(len(x)) % 2)
    for name, found in OF_SAMPLES.items():
        yield f"{name}, first", lambda x, found=found: found(x, features(len(x)))
        yield f"{name}, second", lambda x, found=found: found(features(len(x)), x)


CALLS = dict(calls())


@pytest.mark.parametrize("name", CALLS)
def test_features_are_checked(name):
    call = CALLS[name]
    with pytest.raises(ValueError, match="1 examples, at least 2 are needed"):
        call(features(1))
    broken = features()
    broken[1, 0], broken[4, 1], broken[4, 0] = torch.nan, torch.inf, torch.nan
    with pytest.raises(ValueError, match="3 of the 12 numbers .* not finite, in 2 of 6 examples, .*example 1"):
        call(broken)
    with pytest.raises(ValueError, match=r"\[examples, features\], got \(6, 2, 1\)"):
        call(features().unsqueeze(2))
    with pytest.raises(TypeError, match="got a tensor of torch.int64"):
        call(LABELS[:, None])


@pytest.mark.parametrize(("name", "call"), [*((n, lambda y, f=f: f(features(), y)) for n, f in OF_FEATURES.items()),
                                            ("leep", lambda y: leep(P, y)), ("nce", lambda y: nce(LABELS, y))])
def test_labels_are_checked(name, call):
    with pytest.raises(ValueError, match="6 rows and 5 labels: one label an example"):
        call(LABELS[:5])
    with pytest.raises(ValueError, match=r"2 of the labels are negative \(the least is -100\)"):
        call(torch.tensor([0, 1, -100, 1, 0, -1]))
    with pytest.raises(ValueError, match="all 6 labels are class 4"):
        call(torch.full((6,), 4))
    with pytest.raises(TypeError, match="got a tensor of torch.float32"):
        call(LABELS.float())
    with pytest.raises(ValueError, match=r"shape \[examples\], got \(6, 1\)"):
        call(LABELS[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_is_taken_and_nothing_is_changed(dtype):
    x, y = features(8).to(dtype), (features(8) * 2 + 1).to(dtype)
    before = x.clone(), y.clone()
    labels = torch.arange(8) % 2
    figures = [found(x, labels) for found in OF_FEATURES.values()] + [found(x, y) for found in OF_SAMPLES.values()]
    assert all(type(figure) is float for figure in figures)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert x.dtype == dtype


def test_features_that_require_a_gradient_are_taken():
    x = features().requires_grad_()
    assert type(logme(x, LABELS)) is float
    assert type(frechet(x, x)) is float
