"""The tasks of a set, as one thing that can be asked how it is."""

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bcached.runtime.tasks.allocator import Allocator
from bcached.runtime.tasks.garbage_collector import GarbageCollector
from bcached.runtime.tasks.journal_writer import NAME as JOURNAL_WRITER
from bcached.runtime.tasks.journal_writer import JournalWriter
from bcached.runtime.tasks.leaf_writer import LeafWriter
from bcached.runtime.tasks.prio_writer import PrioWriter


class Task(Protocol):
    """Something that runs until the set stops."""

    def run(self) -> Coroutine[Any, Any, None]:
        """Work."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """One allocator a member, and one each of the others."""

    allocators: list[Allocator]
    prio_writer: PrioWriter
    journal_writer: JournalWriter
    leaf_writer: LeafWriter
    garbage_collector: GarbageCollector

    def named(self) -> Iterator[tuple[str, Task]]:
        """Each task with a name for people."""
        for allocator in self.allocators:
            yield f"allocator {allocator.member.device}", allocator
        yield "prio writer", self.prio_writer
        yield JOURNAL_WRITER, self.journal_writer
        yield "leaf writer", self.leaf_writer
        yield "garbage collector", self.garbage_collector
