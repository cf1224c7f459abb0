# SPDX-License-Identifier: GPL-2.0-only
"""What Watch sends: the state first, then what has changed since the last reply."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from bcached.set_state import SetState
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights
from bcached.state.statistics import SetStatistics
from bcached.wire.admin_messages import Change, News


class StateChanges:
    """One watcher's view of the state, without the volumes that its rights hide."""

    def __init__(self, statistics: Callable[[], SetStatistics], rights: VolumeRights = ALL_RIGHTS) -> None:
        self._statistics = statistics
        self._rights = rights
        self._reported: dict[str, Any] | None = None

    def following(self) -> News | None:
        """Returns the state the first time; then what has changed, or None if nothing has."""
        state = without(self._statistics().state(), self._rights.hidden)
        now = dict(_leaves("", msgspec.to_builtins(state)))
        before, self._reported = self._reported, now
        if before is None:
            return News(state=state)
        changes = [Change(name, value) for name, value in now.items() if before.get(name, ...) != value]
        if gone := before.keys() - now.keys():
            changes += [Change(name, None) for name in _entries(gone, now)]
        return News(changes=tuple(changes)) if changes else None


def without(state: SetState, hidden: Collection[int]) -> SetState:
    """Returns the state without the figures of some volumes; they are in its sums."""
    if not hidden:
        return state
    names = set(map(str, hidden))
    return msgspec.structs.replace(
        state,
        dirty_sectors={name: value for name, value in state.dirty_sectors.items() if name not in names},
        volumes={name: value for name, value in state.volumes.items() if name not in names},
    )


def _entries(gone: Iterable[str], now: Iterable[str]) -> list[str]:
    """Returns the entries of maps that are gone, without what was inside: a volume, not its figures."""
    kept = {name[:end] for name in now for end in range(len(name)) if name[end] == "."}
    entries = set()
    for name in gone:
        parts = name.split(".")
        ways = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        entries.add(next(way for way in ways if way not in kept and "." in way))
    return sorted(entries)


def _leaves(way: str, value: Any) -> "list[tuple[str, Any]]":
    """Returns all values that are not containers, each with its dotted path."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = {str(index): part for index, part in enumerate(value)}.items()
    else:
        return [(way, value)]
    return [leaf for name, part in parts for leaf in _leaves(f"{way}.{name}" if way else name, part)]
