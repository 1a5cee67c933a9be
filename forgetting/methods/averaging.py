"""Weights between before and after, and averages on the way."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from forgetting import fisher
from forgetting.averaging import ExponentialAverage, PeriodicMerge, fisher_merge, interpolate, wise_ft
from forgetting.curvature import Curvature
from forgetting.parameters import Handle
from forgetting.protocol import Method, Situation


def wise_fine_tuning(*, amount: float = 0.5) -> Method:
    """WiSE-FT: the weights after fine-tuning are interpolated with those before."""

    def average(model: nn.Module, situation: Situation) -> None:
        model.load_state_dict(interpolate(situation.start, model.state_dict(), amount))

    def curve(model: nn.Module, situation: Situation) -> Iterator[tuple[float, nn.Module]]:
        return wise_ft(model, situation.start)

    return Method("wise-ft", {"amount": amount}, average=average, curve=curve)


def fisher_merging(*, amount: float = 0.5, labels: str = "exact", examples: int | None = None) -> Method:
    """Each weight after fine-tuning is a mean of old and new, weighted by how much it matters to either's data."""

    def average(model: nn.Module, situation: Situation) -> None:
        def matrix(numbers: range) -> Curvature:
            """The sum of the tasks' matrices at the model's present weights."""
            tasks = (*situation.before, situation.task)
            mixed = torch.Generator().manual_seed(situation.seed)  # with examples=, the first n are a sample
            found = [fisher.diagonal(
                model, tasks[number].train.batches(situation.batch, shuffle=True, generator=mixed), labels=labels,
                outputs=situation.columns[number], examples=examples) for number in numbers]
            total: Curvature = found[0]
            for more in found[1:]:
                total = total.blend(more, 1.0)
            return total

        count = len(situation.before)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        learned = matrix(range(count, count + 1))
        model.load_state_dict(situation.start)
        knew = matrix(range(count))
        model.load_state_dict(fisher_merge([situation.start, after], [knew, learned], [1 - amount, amount]))

    return Method("fisher-merging", {"amount": amount, "labels": labels, "examples": examples}, average=average)


def ema(*, decay: float = 0.99) -> Method:
    """Ends each task with an exponential moving average of the weights on the way."""

    def follow(model: nn.Module, optimizer: Optimizer, _: Situation) -> Handle:
        average = ExponentialAverage(model, decay)
        following = average.follow(optimizer)

        def end() -> None:
            following.remove()
            model.load_state_dict(average.averaged())

        return Handle(end)

    return Method("ema", {"decay": decay}, follow=follow)


def sfa(*, amount: float = 0.5, period: float = 0.25) -> Method:
    """Sequential fine-tuning with averaging: a few times a task, back a part of the way to its start."""

    def follow(model: nn.Module, optimizer: Optimizer, situation: Situation) -> Handle:
        merge = PeriodicMerge(model, situation.steps, amount=amount, period=period)
        following = merge.follow(optimizer)

        def end() -> None:
            following.remove()
            merge.finish()

        return Handle(end)

    return Method("sfa", {"amount": amount, "period": period}, follow=follow)
