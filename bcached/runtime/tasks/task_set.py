# SPDX-License-Identifier: GPL-2.0-only
"""The tasks of a set, in one record with their names."""

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bcached.runtime.tasks.allocator import Allocator
from bcached.runtime.tasks.garbage_collector import GarbageCollector
from bcached.runtime.tasks.journal_writer import JOURNAL_WRITER, JournalWriter
from bcached.runtime.tasks.leaf_writer import LeafWriter
from bcached.runtime.tasks.prio_writer import PrioWriter


class Task(Protocol):
    """A task that runs until the set stops."""

    def run(self) -> Coroutine[Any, Any, None]:
        """Work until the set stops."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """One allocator per member, and one of each other task."""

    allocators: list[Allocator]
    prio_writer: PrioWriter
    journal_writer: JournalWriter
    leaf_writer: LeafWriter
    garbage_collector: GarbageCollector

    def named(self) -> Iterator[tuple[str, Task]]:
        """Yields each task with its name for messages."""
        for allocator in self.allocators:
            yield f"allocator {allocator.member.device}", allocator
        yield "prio writer", self.prio_writer
        yield JOURNAL_WRITER, self.journal_writer
        yield "leaf writer", self.leaf_writer
        yield "garbage collector", self.garbage_collector
