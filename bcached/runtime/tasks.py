"""The tasks of a set, as one thing that can be asked how it is."""

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bcached.runtime.allocator import Allocator
from bcached.runtime.garbage_collector import GarbageCollector
from bcached.runtime.prio_writer import PrioWriter


class Task(Protocol):
    """Something that runs until the set stops."""

    def run(self) -> Coroutine[Any, Any, None]:
        """Work."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """One allocator a member, one prio writer, one garbage collector."""

    allocators: list[Allocator]
    prio_writer: PrioWriter
    garbage_collector: GarbageCollector

    def named(self) -> Iterator[tuple[str, Task]]:
        """Each task with a name for people."""
        for allocator in self.allocators:
            yield f"allocator {allocator.member.device}", allocator
        yield "prio writer", self.prio_writer
        yield "garbage collector", self.garbage_collector
