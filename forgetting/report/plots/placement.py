"""Where direct labels go so that none hides another: in pixels, without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_RADII = (11.0, 17.0, 26.0, 38.0, 54.0, 74.0, 100.0)
_DIRECTIONS = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)


def place(sizes: np.ndarray, anchors: np.ndarray, obstacles: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """Centres for labels near their anchors, clear of each other, of the obstacles and of the border.

    Each label takes the cheapest of a ring of candidates, given where the others are; a few rounds settle it.

    Args:
        sizes: (L, 2) width and height of each label in pixels.
        anchors: (L, 2) the point that each label names.
        obstacles: (M, 4) boxes (left, bottom, right, top) that labels should not cover.
        bounds: left, bottom, right, top of the area that holds all labels.

    Returns:
        (L, 2) centres.

    Example:
        >>> place(np.array([[20.0, 10.0]] * 2), np.array([[50.0, 50.0]] * 2), np.empty((0, 4)), (0, 0, 100, 100)).shape
        (2, 2)
    """
    options = [_candidates(size, anchor) for size, anchor in zip(sizes, anchors, strict=True)]
    fixed = [_fixed_cost(c, s, a, obstacles, bounds) for c, s, a in zip(options, sizes, anchors, strict=True)]
    chosen = np.array([c[np.argmin(cost)] for c, cost in zip(options, fixed, strict=True)]).reshape(-1, 2)
    for _ in range(8):
        before = chosen.copy()
        for label in range(len(chosen)):
            others = np.arange(len(chosen)) != label
            boxes = _boxes(chosen[others], sizes[others])
            cost = fixed[label] + 40.0 * _covered(_boxes(options[label], sizes[label]), boxes, margin=2.0)
            cost = cost + 400.0 * _crossings(options[label], anchors[label], chosen[others], anchors[others])
            chosen[label] = options[label][np.argmin(cost)]
        if np.array_equal(before, chosen):
            break
    return chosen


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions nearest to those given, in the same order, that keep a gap between neighbours inside low…high.

    Neighbours that are too close become one block around the mean of where its members want to be. Where the whole
    does not fit, the gap shrinks.

    Example:
        >>> spread([1.0, 1.0, 5.0], gap=2.0, low=0.0, high=10.0)
        [0.0, 2.0, 5.0]
    """
    count = len(positions)
    if count > 1:
        gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda i: positions[i])
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([positions[index] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, weight), (other, more) = blocks.pop(), blocks.pop()
            blocks.append([(mean * weight + other * more) / (weight + more), weight + more])
    starts = [start for start, weight in blocks for _ in range(int(weight))]
    result = [0.0] * count
    for rank, index in enumerate(order):
        start = min(max(starts[rank], low), high - (count - 1) * gap)
        result[index] = start + rank * gap
    return result


def segments(points: np.ndarray, thickness: float = 3.0, every: float = 6.0) -> np.ndarray:
    """Small boxes along a line through the points, (M, 4), for use as obstacles."""
    boxes = []
    for start, stop in pairwise(points):
        steps = max(2, int(np.hypot(*(stop - start)) / every) + 1)
        along = start + np.linspace(0.0, 1.0, steps)[:, None] * (stop - start)
        boxes.append(_boxes(along, np.full(2, thickness)))
    return np.concatenate(boxes) if boxes else np.empty((0, 4))


def _candidates(size: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Centres whose box touches a ring around the anchor, ring by ring."""
    directions = np.stack([np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)], axis=1)
    rings = [directions * (radius + size / 2 * np.array([1.0, 0.7])) for radius in _RADII]
    return anchor + np.concatenate(rings)


def _boxes(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1).reshape(-1, 4)


def _covered(boxes: np.ndarray, others: np.ndarray, margin: float) -> np.ndarray:
    """How much of the others each box covers, in pixels squared."""
    if len(others) == 0:
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2] - margin, others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:] + margin, others[None, :, 2:])
    return np.clip(high - low, 0.0, None).prod(-1).sum(1)


def _fixed_cost(
    candidates: np.ndarray, size: np.ndarray, anchor: np.ndarray, obstacles: np.ndarray, bounds: Sequence[float]
) -> np.ndarray:
    """What a candidate costs whatever the other labels do: distance, things covered, leaving the area."""
    boxes = _boxes(candidates, size)
    outside = np.clip(np.asarray(bounds[:2]) - boxes[:, :2], 0, None) + np.clip(
        boxes[:, 2:] - np.asarray(bounds[2:]), 0, None
    )
    sideways = np.abs(candidates - anchor)[:, 1] - 0.3 * np.abs(candidates - anchor)[:, 0]
    distance = np.hypot(*(np.abs(candidates - anchor) - size / 2).clip(0).T)
    return 3.0 * distance + 0.3 * sideways + 6.0 * _covered(boxes, obstacles, 1.0) + 1e4 * outside.sum(1)


def _crossings(candidates: np.ndarray, anchor: np.ndarray, centres: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """How many other leader lines each candidate's own would cross."""
    if len(centres) == 0:
        return np.zeros(len(candidates))
    start, stop = np.broadcast_to(anchor, candidates.shape)[:, None], candidates[:, None]
    other, end = anchors[None], centres[None]
    apart = _side(start, stop, other) * _side(start, stop, end) < 0
    return (apart & (_side(other, end, start) * _side(other, end, stop) < 0)).sum(1).astype(float)


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """On which side of the line from a to b each c lies: the sign of a cross product."""
    along, across = b - a, c - a
    return np.sign(along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0])
