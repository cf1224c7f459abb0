"""What a child of a process must not keep of its parent's clients.

A child has copies of all descriptors. While it keeps a copy of the lease the parent cannot let it go, and
while it keeps one of the connection the daemon does not notice that the parent has gone. So the child closes
its copies at once. That takes nothing from the parent, whose own stay open.
"""

import os
from typing import Protocol
from weakref import WeakSet


class EndsInChildren(Protocol):
    """Something with descriptors."""

    def end_in_child(self) -> None:
        """Close the copies; no lock may be taken, since its owner may be a thread that the child lacks."""


_kept: "WeakSet[EndsInChildren]" = WeakSet()


def end_in_children(one: EndsInChildren) -> None:
    """Have its descriptors closed in every child of this process."""
    _kept.add(one)


def _in_child() -> None:
    for one in list(_kept):
        one.end_in_child()
    _kept.clear()


os.register_at_fork(after_in_child=_in_child)
