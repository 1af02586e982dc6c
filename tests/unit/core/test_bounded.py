"""A dictionary of limited size."""

from hypothesis import given
from hypothesis import strategies as st

from bot.core.bounded import BoundedDict

KEYS = st.integers(0, 5)


@given(st.lists(st.tuples(st.sampled_from(["set", "use"]), KEYS)), st.integers(1, 4))
def test_it_holds_the_entries_that_were_set_or_used_last(
    steps: list[tuple[str, int]], most: int
) -> None:
    entries = BoundedDict[int, int](most)
    expected: list[int] = []
    for number, (step, key) in enumerate(steps):
        if step == "set":
            entries[key] = number
        else:
            assert (entries.use(key) is None) == (key not in expected)
        if step == "set" or key in expected:
            expected = [*(one for one in expected if one != key), key][-most:]

    assert list(entries) == expected
