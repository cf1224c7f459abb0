# SPDX-License-Identifier: GPL-2.0-only
"""Kernel threads as generators: each runs until it yields the condition it waits for.

Between two yields nothing else runs, as under the kernel's bucket_lock. A waiting thread is looked at
again after every step of any other, which is more than the kernel's wake-ups promise: threads that stand
still here stand still there.
"""

from collections.abc import Callable, Generator

Condition = Callable[[], bool]
Thread = Generator[Condition, None, None]


class Deadlock(Exception):
    """Threads are left and none of them can ever go on."""


class Livelock(Exception):
    """The threads go on and on, and what they were to bring about does not come."""


class Scheduler:
    """Runs threads in turn; the same ones always run the same way."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[Thread, Condition]] = {}
        self.daemons: set[str] = set()

    def start(self, name: str, thread: Thread, *, daemon: bool = False) -> None:
        """Add a thread; daemons are not waited for when all others have ended."""
        self.waiting[name] = (thread, lambda: True)
        if daemon:
            self.daemons.add(name)

    def run(self, until: Condition = lambda: False, steps_max: int = 100_000) -> None:
        """Run until the condition holds or all but daemons have ended. Deadlock if nothing can run."""
        for _ in range(steps_max):
            if until() or not self.waiting.keys() - self.daemons:
                return
            if not self.step():
                raise Deadlock(f"all wait for ever: {', '.join(sorted(self.waiting))}")
        raise Livelock(f"no end after {steps_max} steps")

    def step(self) -> bool:
        """The first thread that may go on runs to its next wait, and then stands last in line.

        Each condition is asked once, and its thread goes on at once: asking may take a bucket.
        """
        name = next((name for name, (_, may_go_on) in self.waiting.items() if may_go_on()), None)
        if name is None:
            return False
        thread, _ = self.waiting.pop(name)
        try:
            self.waiting[name] = (thread, next(thread))
        except StopIteration:
            self.daemons.discard(name)
        return True
