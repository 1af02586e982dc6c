"""Shares, spans and sums of figures, and what of them everybody may see."""

import math
from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.statistics import (
    BOUNDS,
    LEAST,
    OTHERS,
    PUBLIC_PARTS,
    FigureFilter,
    Figures,
    Group,
    Share,
    answered,
    by,
    chunk,
    first_of,
    quantile,
    rated,
    satisfaction,
    showable,
    time_class,
    total,
)

SMALL = Group("small", "a.fr", "direct", "", "v1")
LARGE = Group("large", "b.fr", "salon", "web,docs", "v1")


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        # Of R's prop.test(x, n, correct = FALSE).
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),
        (600_000, 1_000_000, 0.599_04, 0.600_96),
    ],
)
def test_a_share_has_wilsons_interval(part: int, whole: int, low: float, high: float) -> None:
    share = Share(part, whole)
    assert share.value == part / whole
    assert share.interval == pytest.approx((low, high), abs=6e-5)


@given(whole=st.integers(1, 10**6), data=st.data())
def test_an_interval_holds_its_share_and_is_one(whole: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(0, whole)), whole)
    low, high = share.interval
    assert 0 <= low <= share.value + 1e-9
    assert share.value - 1e-9 <= high <= 1


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ({}, None),
        ({"replies": 9, "others_yes": 3}, None),  # satisfaction is of who has asked
        ({"yes": 3}, Share(3, 3)),
        ({"yes": 3, "partly": 2, "no": 1}, Share(3, 6)),  # partly is no yes
    ],
)
def test_satisfaction_is_the_share_of_yes(figures: Figures, share: Share | None) -> None:
    assert satisfaction(Counter(figures)) == share


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ({"replies": 9}, None),
        ({"polls": 4, "votes": 1}, Share(1, 4)),
        ({"polls": 1, "votes": 2}, Share(1, 1)),  # votes and polls may be of different days
    ],
)
def test_polls_are_answered_or_not(figures: Figures, share: Share | None) -> None:
    assert answered(Counter(figures)) == share


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0.0, 0), (0.5, 0), (0.51, 1), (3.0, 4), (300.0, 17), (300.1, 18), (1e9, 18)],
)
def test_a_time_is_in_the_class_whose_end_it_does_not_pass(seconds: float, number: int) -> None:
    assert time_class(seconds) == number


@pytest.mark.parametrize(
    ("times", "part", "expected"),
    [
        ([], 0.5, None),
        ([2.5], 0.5, 2.5),  # the middle of its class
        ([0.2, 0.2, 0.2, 0.2], 0.5, 0.25),
        ([1.0] * 9 + [400.0], 0.9, 1.0),
        ([1.0] * 9 + [400.0], 0.95, math.inf),
    ],
)
def test_a_quantile_is_interpolated_in_its_class(
    times: list[float], part: float, expected: float | None
) -> None:
    figures = Counter(f"seconds_{time_class(one)}" for one in times)
    assert quantile(figures, "seconds", part) == expected
    assert quantile(figures, "first_words", part) is None


@given(times=st.lists(st.floats(0, 300), min_size=1), part=st.floats(0.01, 1))
def test_a_quantile_is_in_the_class_of_the_true_one(times: list[float], part: float) -> None:
    figures = Counter(f"seconds_{time_class(one)}" for one in times)
    true = sorted(times)[math.ceil(part * len(times) - 1e-9) - 1]
    found = quantile(figures, "seconds", part)
    assert found is not None
    end = BOUNDS[time_class(true)]
    start = BOUNDS[time_class(true) - 1] if time_class(true) else 0.0
    assert start - 1e-6 <= found <= end + 1e-6


def test_weeks_begin_on_mondays() -> None:
    sunday, monday = date(2026, 1, 4), date(2026, 1, 5)
    assert first_of("week", sunday) == date(2025, 12, 29)
    assert [first_of("week", monday + n * timedelta(days=1)) for n in range(7)] == [monday] * 7
    assert first_of("day", sunday) == sunday


def test_figures_are_added_by_what_groups_have_in_common() -> None:
    groups = {SMALL: Counter(yes=1), LARGE: Counter(yes=2, no=1)}
    assert by("model", groups) == {"small": {"yes": 1}, "large": {"yes": 2, "no": 1}}
    assert by("prompt_version", groups) == {"v1": {"yes": 3, "no": 1}}
    both = {"yes": 2, "no": 1}
    assert by("tools", groups) == {"": {"yes": 1}, "web": both, "docs": both}
    assert total(groups) == {"yes": 3, "no": 1}


def test_figures_are_narrowed_to_a_model_and_a_domain() -> None:
    assert [
        SMALL in only for only in (FigureFilter(), FigureFilter("small"), FigureFilter("large"))
    ] == [
        *(True, True, False),
    ]
    assert [SMALL in FigureFilter(domain=name) for name in ("a.fr", "b.fr", "")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("groups", "shown", "others"),
    [
        ({}, {}, 0),
        ({"a": 10}, {"a": 10}, 0),
        ({"a": 9}, {}, 0),
        ({"a": 9, "b": 1}, {}, 10),
        ({"a": 100, "b": 10, "c": 9}, {"a": 100}, 19),  # c alone would be the difference
        ({"a": 100, "b": 5, "c": 5}, {"a": 100}, 10),
        ({"a": 100, "c": 0}, {}, 100),
        ({"a": 4, "b": 5}, {}, 0),
    ],
)
def test_small_groups_are_merged_until_there_are_enough(
    groups: dict[str, int], shown: dict[str, int], others: int
) -> None:
    found, rest = showable({name: Counter(no=number) for name, number in groups.items()})
    assert {name: rated(figures) for name, figures in found.items()} == shown
    assert rated(rest) == others


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 30), max_size=8),
)
def test_nothing_that_is_shown_and_no_difference_is_small(sizes: dict[str, int]) -> None:
    groups = {name: Counter(yes=number) for name, number in sizes.items()}
    shown, others = showable(groups)
    everything = sum(sizes.values())
    assert all(rated(figures) >= LEAST for figures in shown.values())
    assert rated(others) == 0 or rated(others) >= LEAST
    assert sum(map(rated, shown.values())) + rated(others) in {everything, 0}
    hidden = everything - sum(map(rated, shown.values()))
    assert not shown or hidden == 0 or hidden >= LEAST


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (0, 0, {}),
        (4, 5, {}),
        (4, 6, {"small": 0, "large": 0, OTHERS: 10}),
        (10, 0, {"small": 0, "large": 0, OTHERS: 10}),  # replies without a rating
        (9, 90, {"small": 0, "large": 0, OTHERS: 99}),
        (10, 90, {"small": 10, "large": 90, OTHERS: 0}),
    ],
)
def test_a_chunk_shows_what_has_enough_ratings_and_the_sum_of_all_else(
    small: int, large: int, expected: dict[str, int]
) -> None:
    groups = {
        SMALL: Counter(replies=100, yes=small),
        LARGE: Counter(replies=100, no=large),
    }

    rows = chunk(groups)

    assert rows.get(("", "")) == (total(groups) if expected else None)
    for name, number in expected.items():
        assert rated(rows.get(("model", name), Counter())) == number
    assert {part for part, _ in rows} == ({"", *PUBLIC_PARTS} if expected else set())


def test_what_is_not_known_is_a_name_beside_the_others() -> None:
    unknown = {SMALL._replace(model=""): Counter(yes=10), SMALL: Counter(yes=20)}
    few = {LARGE: Counter(yes=4), LARGE._replace(model="medium"): Counter(yes=6)}

    rows = chunk({**unknown, **few})

    models = {name: rated(figures) for (part, name), figures in rows.items() if part == "model"}
    assert models == {"": 10, "small": 20, OTHERS: 10}


@given(
    groups=st.dictionaries(
        st.builds(
            Group,
            st.sampled_from(["", "a", "b", "c"]),
            st.sampled_from(["a.fr", "b.fr"]),
            st.sampled_from(["direct", "salon"]),
            st.just(""),
            st.just("v1"),
        ),
        st.builds(
            lambda yes, replies: Counter(yes=yes, replies=replies),
            st.integers(0, 15),
            st.integers(0, 20),
        ),
    )
)
def test_each_row_of_a_chunk_has_enough_and_each_parts_rows_are_its_whole(
    groups: dict[Group, Figures],
) -> None:
    rows = chunk(groups)

    assert bool(rows) == (rated(total(groups)) >= LEAST)
    assert all(rated(figures) >= LEAST for figures in rows.values())
    for part in PUBLIC_PARTS if rows else ():
        its = [figures for (of, _), figures in rows.items() if of == part]
        assert sum(its, Counter()) == total(groups) == rows["", ""]
