"""Schedules: step for step as their papers say, saved, resumed, chained, and held at the end."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, SequentialLR

from forgetting.rates import rewarm, slanted_triangular, warmup_cosine, warmup_stable_decay


def optimizer():
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": 2.0},
                            {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.5}])


def follow(scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


def equation_three(step, steps, cut_frac, ratio):
    """Howard and Ruder's equation 3, letter by letter."""
    cut = math.floor(steps * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "cut", "ratio"), [(100, 0.1, 32), (50, 0.5, 8), (40, 0.25, 1), (100, 0.29, 32)])
def test_slanted_triangular_is_equation_three(steps, cut, ratio):
    expected = torch.tensor([equation_three(t, steps, cut + 1e-15, ratio) for t in range(steps)], dtype=torch.float64)
    seen = follow(slanted_triangular(optimizer(), steps, cut=cut, ratio=ratio), steps)
    torch.testing.assert_close(seen, expected[:, None] * torch.tensor([2.0, 0.5], dtype=torch.float64))


def test_the_printed_formula_goes_negative_and_ours_does_not():
    assert equation_three(14, 15, 0.1, 32) < 0
    seen = follow(slanted_triangular(optimizer(), 15), 15)
    assert seen.min() == 0.5 / 32


def test_warmup_cosine_step_by_step():
    seen = follow(warmup_cosine(optimizer(), 10, warmup=4, floor=0.1), 11)[:, 0] / 2
    expected = [0.2, 0.4, 0.6, 0.8, *(0.1 + 0.9 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(7))]
    torch.testing.assert_close(seen, torch.tensor(expected, dtype=torch.float64))
    assert follow(warmup_cosine(optimizer(), 3, warmup=0), 1)[0, 0] == 2


def in_sequence(optimizer):
    schedulers = [warmup_stable_decay(optimizer, 6, warmup=2, decay=2), rewarm(optimizer, [6], warmup=1, floor=0.2)]
    return SequentialLR(optimizer, schedulers, milestones=[6])


SCHEDULES = {"slanted": lambda optimizer: slanted_triangular(optimizer, 12, cut=0.25),
             "cosine": lambda optimizer: warmup_cosine(optimizer, 12, warmup=3, floor=0.2),
             "stable": lambda optimizer: warmup_stable_decay(optimizer, 12, warmup=2, decay=4, floor=0.05),
             "infinite": lambda optimizer: warmup_stable_decay(optimizer, 12, warmup=2, cooldown=3, constant=0.4,
                                                               decay=4),
             "rewarm": lambda optimizer: rewarm(optimizer, [5, 7], warmup=2, floor=0.1),
             "sequence": in_sequence}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_beyond_the_end_the_last_value_holds(schedule):
    seen = follow(schedule(optimizer()), 20)
    assert seen[12:].unique(dim=0).shape[0] == 1
    assert (seen[12] < seen[11]).all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("pause", [1, 3, 7, 14])
def test_a_resumed_run_has_the_same_rates(schedule, pause):
    whole = follow(schedule(optimizer()), 16)
    first = schedule(optimizer())
    follow(first, pause)
    file = io.BytesIO()
    torch.save({"optimizer": first.optimizer.state_dict(), "scheduler": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = schedule(optimizer())
    second.optimizer.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["scheduler"])
    assert torch.equal(follow(second, 16 - pause), whole[pause:])


def test_the_state_carries_the_settings():
    short = warmup_cosine(optimizer(), 5, warmup=1)
    long = warmup_cosine(optimizer(), 50, warmup=7, floor=0.3)
    short.load_state_dict(long.state_dict())
    assert torch.equal(follow(short, 60), follow(long, 60))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_schedulers_are_copied_and_pickled(duplicate):
    scheduler = SCHEDULES["cosine"](optimizer())
    follow(scheduler, 2)
    assert torch.equal(follow(duplicate(scheduler), 5), follow(scheduler, 5))


def stable_of_the_paper(s, W, T, half_life):
    """Hu et al.: WSD(T; s), s from 1, T the end of the stable stage, f(s - T) = 0.5^((s - T) / half-life)."""
    if s < W:
        return s / W
    return 1.0 if s <= T else 0.5 ** ((s - T) / half_life)


@pytest.mark.parametrize(("steps", "warmup", "decay", "floor"), [(50, 4, 10, 0.1), (20, 0, 20, 0.5), (30, 9, 1, 0.01)])
def test_warmup_stable_decay_is_the_papers(steps, warmup, decay, floor):
    half_life = decay * math.log(2) / math.log(1 / floor)
    expected = [stable_of_the_paper(t + 1, warmup + 1, steps - decay + 1, half_life)
                for t in range(steps + 1)]
    seen = follow(warmup_stable_decay(optimizer(), steps, warmup=warmup, decay=decay, floor=floor), steps + 1)
    torch.testing.assert_close(seen[:, 0] / 2, torch.tensor(expected, dtype=torch.float64))
    assert seen[-1, 0].item() / 2 == pytest.approx(floor)


def test_before_the_decay_nothing_depends_on_the_number_of_steps():
    short = follow(warmup_stable_decay(optimizer(), 20, warmup=3, decay=5), 15)
    long = follow(warmup_stable_decay(optimizer(), 900, warmup=3, decay=200), 15)
    assert torch.equal(short, long)
    endless = follow(warmup_stable_decay(optimizer(), 5, warmup=1, decay=0), 30)
    assert set(endless[1:, 0].tolist()) == {2.0}


def infinite_of_the_paper(t, highest, constant, lowest, warm, cool, end_of_constant, end):
    """Ibrahim et al.'s four stages with t counted from 1: rise, cosine, constant, exponential annealing."""
    if t <= warm:
        return highest * t / warm
    if t <= cool:
        return constant + (highest - constant) / 2 * (1 + math.cos(math.pi * (t - warm) / (cool - warm)))
    if t <= end_of_constant:
        return constant
    return constant * (lowest / constant) ** ((t - end_of_constant) / (end - end_of_constant))


def test_with_a_cooldown_it_is_the_infinite_schedule():
    scheduler = warmup_stable_decay(optimizer(), 40, warmup=4, cooldown=12, constant=0.5, decay=8, floor=0.05)
    expected = [infinite_of_the_paper(t + 1, 2.0, 1.0, 0.1, 5, 17, 33, 41) for t in range(41)]
    torch.testing.assert_close(follow(scheduler, 41)[:, 0], torch.tensor(expected, dtype=torch.float64))


def rewarmed_of_the_paper(t, highest, lowest, warm, end):
    """Ibrahim et al.'s linear warm-up and cosine annealing with t counted from 1, from a task's start."""
    if t <= warm:
        return highest * t / warm
    return lowest + (highest - lowest) / 2 * (math.cos(math.pi * (t - warm) / (end - warm)) + 1)


def test_rewarm_rises_and_falls_in_each_task():
    expected = [rewarmed_of_the_paper(t + 1, 2.0, 0.2, 4, steps + 1) for steps in (10, 25, 4) for t in range(steps)]
    seen = follow(rewarm(optimizer(), [10, 25, 4], warmup=3, floor=0.1), 40)
    torch.testing.assert_close(seen[:, 0], torch.tensor([*expected, 0.2], dtype=torch.float64))


def test_rewarm_without_a_warmup_is_warm_restarts():
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    expected = follow(CosineAnnealingWarmRestarts(theirs, 8, eta_min=0.2), 24)[:, 0]
    torch.testing.assert_close(follow(rewarm(optimizer(), [8, 8, 8], floor=0.1), 24)[:, 0], expected)


def test_a_scheduler_made_anew_for_each_task_does_what_rewarm_does():
    whole = follow(rewarm(optimizer(), [6, 9], warmup=2, floor=0.1), 15)
    parts = [follow(warmup_cosine(optimizer(), steps, warmup=2, floor=0.1), steps) for steps in (6, 9)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_groups_with_two_rates_keep_their_ratio(schedule):
    seen = follow(schedule(optimizer()), 14)
    torch.testing.assert_close(seen[:, 0], 4 * seen[:, 1], rtol=1e-12, atol=0)


def test_one_after_the_other():
    shared = optimizer()
    scheduler = SequentialLR(shared, [slanted_triangular(shared, 10), CosineAnnealingLR(shared, 5)], milestones=[10])
    seen = follow(scheduler, 12)
    torch.testing.assert_close(seen[:10], follow(slanted_triangular(optimizer(), 10), 10))


@pytest.mark.parametrize(("call", "message"), [
    (lambda o: slanted_triangular(o, 0), "steps=0 must be a whole number"),
    (lambda o: slanted_triangular(o, 2.5), "steps=2.5 must be a whole number"),
    (lambda o: slanted_triangular(o, 5), "5 steps with cut=0.1 leave no step"),
    (lambda o: slanted_triangular(o, 50, cut=1), r"cut=1 must lie in \(0, 1\)"),
    (lambda o: slanted_triangular(o, 50, ratio=0.5), "ratio=0.5 must be at least 1"),
    (lambda o: slanted_triangular(o, 50, ratio=math.nan), "ratio=nan must be at least 1"),
    (lambda o: warmup_cosine(o, 5, warmup=5), "warmup=5 must be a whole number of steps, from 0 to 4"),
    (lambda o: warmup_cosine(o, 5, warmup=-1), "warmup=-1"),
    (lambda o: warmup_cosine(o, 5, warmup=0.1), "warmup=0.1"),
    (lambda o: warmup_cosine(o, 5, warmup=1, floor=2), r"floor=2 must lie in \[0, 1\]"),
    (lambda o: warmup_stable_decay(o, 5, warmup=3, decay=3), "warmup=3, cooldown=0 and decay=3 are more than the 5"),
    (lambda o: warmup_stable_decay(o, 5, warmup=1, decay=0.2), "decay=0.2 must be a whole number of steps"),
    (lambda o: warmup_stable_decay(o, 5, warmup=True, decay=1), "warmup=True must be"),
    (lambda o: warmup_stable_decay(o, 5, warmup=1, decay=2, floor=0), r"floor=0 must lie in \(0, 1.0\]: .* never"),
    (lambda o: warmup_stable_decay(o, 5, warmup=1, decay=2, constant=0.5), "constant=0.5 .* only after a cooldown"),
    (lambda o: warmup_stable_decay(o, 5, warmup=1, cooldown=1, decay=2, constant=0.05),
     r"floor=0.1 must lie in \(0, 0.05\]"),
    (lambda o: rewarm(o, []), "tasks= takes the number of steps of each task"),
    (lambda o: rewarm(o, [5, 0]), "steps=0 must be a whole number"),
    (lambda o: rewarm(o, [5, 3], warmup=3), "warmup=3 must be a whole number of steps, from 0 to 2"),
    (lambda o: rewarm(o, [5, 3], floor=-0.1), r"floor=-0.1 must lie in \[0, 1\]"),
])
def test_bad_schedules_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(optimizer())
