"""Labels: none over another, near what they name, inside the frame."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forgetting.report.plots.placement import place, segments, spread


def boxes(centres, sizes):
    return [(*(centre - size / 2), *(centre + size / 2)) for centre, size in zip(centres, sizes, strict=True)]


def overlap(first, second):
    return min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(first[1], second[1])


def test_nine_labels_at_one_corner_do_not_overlap_and_stay_inside():
    anchors = np.random.default_rng(0).normal((500, 350), (25, 40), size=(9, 2))
    sizes = np.array([[90.0, 14.0]] * 9)
    found = boxes(place(sizes, anchors, np.concatenate([anchors - 6, anchors + 6], axis=1), (0, 0, 600, 420)), sizes)
    for number, first in enumerate(found):
        assert not any(overlap(first, second) for second in found[number + 1 :])
        assert not any(overlap(first, (*(point - 4), *(point + 4))) for point in anchors)
        assert min(first) >= 0
        assert first[2] <= 600
        assert first[3] <= 420


def test_a_lonely_label_is_near_its_anchor():
    (centre,) = place(np.array([[40.0, 12.0]]), np.array([[100.0, 100.0]]), np.empty((0, 4)), (0, 0, 200, 200))
    assert np.hypot(*(np.abs(centre - 100) - np.array([20, 6])).clip(0)) < 15


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.1, 30))
def test_spread_keeps_order_gap_and_bounds(positions, gap):
    found = spread(positions, gap, low=0.0, high=100.0)
    least = min(gap, 100.0 / max(1, len(positions) - 1))
    ordered = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    placed = [found[i] for i in ordered]
    assert all(later - earlier >= least - 1e-6 for earlier, later in pairwise(placed))
    assert min(found) >= -1e-6
    assert max(found) <= 100 + 1e-6


def test_what_has_room_stays_where_it_is():
    assert spread([80.0, 20.0, 50.0], gap=10.0, low=0.0, high=100.0) == [80.0, 20.0, 50.0]


def test_segments_cover_a_line():
    found = segments(np.array([[0.0, 0.0], [60.0, 0.0]]))
    assert (found[0, 0], found[-1, 2]) == (-1.5, 61.5)
    assert segments(np.array([[1.0, 1.0]])).shape == (0, 4)
