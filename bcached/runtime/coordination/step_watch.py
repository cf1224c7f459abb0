# SPDX-License-Identifier: GPL-2.0-only
"""The watch over the tasks' steps: since when each task is busy, so that a hang can be found."""

from collections.abc import Callable


class StepWatch:
    """The present steps of the tasks; after_step is called after every step of every task."""

    def __init__(self, clock: Callable[[], float], after_step: Callable[[], None]) -> None:
        self.node_writers: set[object] = set()  # the tasks that write nodes of the index
        self.waiting_for_nodes = 0  # how many node writes wait for buckets
        self._clock = clock
        self._after_step = after_step
        self._busy_since: dict[object, float] = {}  # when each busy task began its step

    def begin(self, task: object) -> None:
        """Record that a task began a step, or progressed in it."""
        self._busy_since[task] = self._clock()

    def end(self, task: object) -> None:
        """Record that a task ended its step, and call after_step."""
        del self._busy_since[task]
        self._after_step()

    def busy_s(self, *, is_writing_nodes: bool = False) -> float:
        """Returns how long the longest present step of any task has lasted, in seconds.

        Tasks that write nodes are excluded while one waits for a bucket, which may take any time, and while
        is_writing_nodes: some were written lately, and there may be very many to write.
        """
        now = self._clock()
        excused = self.node_writers if self.waiting_for_nodes or is_writing_nodes else frozenset()
        return max(
            (now - since for task, since in self._busy_since.items() if task not in excused), default=0.0
        )
