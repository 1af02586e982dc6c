"""A dictionary of limited size."""

from typing import Generic, TypeVar

from typing_extensions import override

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(dict[K, V], Generic[K, V]):
    """A dictionary of at most `most` entries: to set one more drops the oldest.

    To set an entry again makes it the newest. Only `d[key] = value` keeps the bound: `setdefault`
    and `update` do not.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    @override
    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._most:
            del self[next(iter(self))]

    def use(self, key: K) -> V | None:
        """Return the entry and make it the newest; None if there is none."""
        if key not in self:
            return None
        self[key] = value = self[key]
        return value
