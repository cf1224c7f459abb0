# SPDX-License-Identifier: GPL-2.0-only
from bcached.runtime.coordination.step_watch import StepWatch


class Watched:
    """A watch with a clock of its own, and how often a step ended."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ended = 0
        self.steps = StepWatch(lambda: self.now, self._count)

    def _count(self) -> None:
        self.ended += 1


def test_a_step_lasts_until_it_ends() -> None:
    watched = Watched()
    watched.steps.begin("task")
    watched.now = 3.0
    assert watched.steps.busy_s() == 3.0
    watched.steps.end("task")
    assert (watched.steps.busy_s(), watched.ended) == (0.0, 1)


def test_progress_begins_the_step_again() -> None:
    watched = Watched()
    watched.steps.begin("task")
    watched.now = 3.0
    watched.steps.begin("task")
    watched.now = 4.0
    assert watched.steps.busy_s() == 1.0


def test_the_longest_step_counts() -> None:
    watched = Watched()
    watched.steps.begin("early")
    watched.now = 2.0
    watched.steps.begin("late")
    watched.now = 5.0
    assert watched.steps.busy_s() == 5.0


def test_writers_of_nodes_are_excused_while_one_waits_for_a_bucket_or_nodes_are_written() -> None:
    watched = Watched()
    watched.steps.node_writers.add("writer")
    watched.steps.begin("writer")
    watched.now = 1.0
    watched.steps.begin("other")
    watched.now = 30.0
    assert watched.steps.busy_s() == 30.0
    assert watched.steps.busy_s(is_writing_nodes=True) == 29.0
    watched.steps.waiting_for_nodes = 1
    assert watched.steps.busy_s() == 29.0
