"""A family: a literal tuple of frozen records, looked up by name."""

from __future__ import annotations

from typing import Protocol, SupportsIndex, TypeVar, overload

from kullback.errors import NameUnknownError, shown


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...


Member = TypeVar("Member", bound=Named)


class Family(tuple[Member, ...]):
    """A tuple of named records; ``family["k3"]`` finds one by its name.

    Example:
        >>> import kullback as kb
        >>> kb.ESTIMATORS["k3"] is kb.K3
        True
    """

    __slots__ = ()

    @overload
    def __getitem__(self, key: str | SupportsIndex, /) -> Member: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Member, ...]: ...
    def __getitem__(self, key: str | SupportsIndex | slice, /) -> Member | tuple[Member, ...]:
        """The member at a place or with a name; NameUnknownError says which names there are."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        for member in self:
            if member.name == key:
                return member
        raise NameUnknownError(f"there is no {shown(key)}; choose one of {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the family's order."""
        return tuple(member.name for member in self)
