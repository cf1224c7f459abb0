# SPDX-License-Identifier: GPL-2.0-only
"""What a run found: tables for people on the way, one JSON file at the end, and which targets were met."""

import json
import platform
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass
class Report:
    """Collects and prints."""

    console: Console = field(default_factory=lambda: Console(width=110, highlight=False))
    results: dict[str, object] = field(default_factory=dict)
    targets: list[dict[str, object]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def note(self, text: str) -> None:
        self.console.print(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def skip(self, reason: str) -> None:
        self.skipped.append(reason)
        self.console.print(f"[bold red]SKIPPED: {reason}[/bold red]")

    def target(
        self,
        name: str,
        what: str,
        found: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        met = (at_least is None or found >= at_least) and (at_most is None or found <= at_most)
        wanted = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
        self.targets.append({"name": name, "what": what, "wanted": wanted, "found": found, "met": met})

    def keep(self, name: str, value: object) -> None:
        self.results[name] = value

    def finish(self, path: Path) -> None:
        """The targets, the machine, and the file."""
        self.heading("Targets")
        self.table(
            ("", "measure", "wanted", "found", ""),
            [
                (
                    str(it["name"]),
                    str(it["what"]),
                    str(it["wanted"]),
                    f"{it['found']:.2f}",
                    "met" if it["met"] else "MISSED",
                )
                for it in self.targets
            ],
        )
        self.note(f"\n{interpreter()}")
        for reason in self.skipped:
            self.note(f"[bold red]SKIPPED: {reason}[/bold red]")
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"interpreter": interpreter(), "targets": self.targets, "skipped": self.skipped}
        path.write_text(json.dumps(found | self.results, indent=1) + "\n")
        self.note(f"written to {path}")


def interpreter() -> str:
    """Which Python: one built without optimisation takes half as long again."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    built = "with" if "--enable-optimizations" in arguments else "without"
    return f"CPython {platform.python_version()} built {built} --enable-optimizations, {sys.platform}"
