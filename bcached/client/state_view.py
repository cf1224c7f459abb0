# SPDX-License-Identifier: MIT
"""A watcher's view of the state, kept up to date from changes."""

from typing import Any

import msgspec

from bcached.set_state import SetState
from bcached.wire.admin_messages import Change, News


class StateView:
    """The latest state, from the replies so far."""

    def __init__(self) -> None:
        self._known: Any = None

    def take(self, news: News) -> SetState:
        """Returns the state after this reply."""
        if news.state is not None:
            self._known = msgspec.to_builtins(news.state)
        for change in news.changes or ():
            self._change(change)
        return msgspec.convert(self._known, SetState)

    def _change(self, change: Change) -> None:
        *way, last = change.name.split(".")
        parent = self._known
        for step in way:
            # What is not there yet is an entry of a map, as a new volume is.
            parent = parent[int(step)] if isinstance(parent, list | tuple) else parent.setdefault(step, {})
        if change.value is None and way:  # an entry of a map that is gone
            parent.pop(last, None)
        else:
            parent[last] = change.value
