# SPDX-License-Identifier: GPL-2.0-only
"""Where cases are carried out: the machine, a folder for images, tools, and what a case comes to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from . import images
from .errors import CannotRun
from .judge import Verdict, judge
from .machine import Machine
from .packages import cache_folder


class Skipped(Exception):
    """A case that cannot be carried out here; the message says what it needs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case came to. It holds if there are no complaints."""

    complaints: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    log: str = ""

    @classmethod
    def of(cls, *verdicts: Verdict) -> "Outcome":
        """The kernel must have accepted all of these; the last one's facts are told."""
        complaints = tuple(complaint for verdict in verdicts for complaint in verdict.complaints)
        logs = [verdict.log for verdict in verdicts if verdict.complaints]
        return cls(complaints, verdicts[-1].facts, "\n".join(logs))


@dataclass(frozen=True, slots=True)
class Case:
    """A claim and the way to try it; the name's first word is its family."""

    name: str
    claim: str
    run: Callable[["Lab"], Outcome]
    is_long: bool = False  # carried out only when named


@dataclass
class Lab:
    """The machine and a folder; images made here are gone when the run ends."""

    machine: Machine
    folder: Path

    def path(self, name: str) -> Path:
        """A place for an image."""
        return self.folder / f"{name}.img"

    @cached_property
    def debug_machine(self) -> Machine:
        """The machine whose bcache checks itself and what it is given; Skipped where it cannot be built."""
        try:
            return Machine.prepare(self.machine.series, debug=True)
        except CannotRun as error:
            raise Skipped(str(error)) from None

    @property
    def make_bcache_tool(self) -> Path:
        """bcache's own tool, out of its package."""
        return cache_folder(self.machine.series) / "root/usr/sbin/make-bcache"

    @property
    def super_show_tool(self) -> Path:
        """The tool that prints a superblock, out of the same package."""
        return cache_folder(self.machine.series) / "root/usr/sbin/bcache-super-show"

    @cached_property
    def kernel_image(self) -> Path:
        """An image made by make-bcache and used by the kernel alone: a sound one that is not our work."""
        path = self.path("kernel")
        images.make_bcache(self.make_bcache_tool, path, 64 << 20, 64 << 10, 512)
        verdict = judge(self.machine, path, may_be_fresh=True, keep_writes=True)
        assert verdict.accepted, f"the kernel complains of its own image: {verdict.complaints}"
        return path
