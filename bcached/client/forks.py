# SPDX-License-Identifier: MIT
"""Closes in a child process what it inherited of its parent's clients.

A child has copies of all descriptors. While it keeps a copy of the lease the parent cannot release it, and
while it keeps one of the connection the daemon does not notice the parent's end. So the child closes its
copies at once, which does not affect the parent's.
"""

import os
from typing import Protocol
from weakref import WeakSet


class EndsInChildren(Protocol):
    """An object with descriptors."""

    def end_in_child(self) -> None:
        """Close the copies; no lock may be taken, since its owner may be a thread that the child lacks."""


_kept: "WeakSet[EndsInChildren]" = WeakSet()


def end_in_children(one: EndsInChildren) -> None:
    """Register an object whose descriptors are to be closed in every child of this process."""
    _kept.add(one)


def _in_child() -> None:
    for one in list(_kept):
        one.end_in_child()
    _kept.clear()


os.register_at_fork(after_in_child=_in_child)
