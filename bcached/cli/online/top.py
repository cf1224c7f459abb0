# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl top`: the state of the set, live."""

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress

import click
from rich.console import Console, RenderableType
from rich.live import Live

from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import until_interrupted
from bcached.cli.online.daemon import connected
from bcached.cli.online.layouts import Fitted, layouts
from bcached.client.client import Client
from bcached.set_state import SetState

HELP = """Keys of bcachectl top

  q or Ctrl-C   end
  ? or h        this help; any key ends it

Free lists: buckets ready in each reserve, of how many; a nearly empty one is yellow.
Buckets: how many are in each state; metadata is what bcache itself keeps on
the device. A larger window shows more. What each figure means: bcachectl(8), docs/monitoring.md.
"""


@click.command
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between updates.",
)
@pass_options
def top(options: GlobalOptions, interval: float) -> None:
    """Show the set's state, live, until q or Ctrl-C; ? shows the keys.

    What does not fit on the terminal is left out, and the last line says what. Without a terminal, or with
    --json, use status.
    """
    console = Console(highlight=False)
    if options.as_json or not console.is_terminal:
        raise click.UsageError("top needs a terminal; bcachectl status prints the same once, also as --json")
    with (
        suppress(KeyboardInterrupt),
        connected(options) as client,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        # All in one run of the loop: between two runs, Ctrl-C would hit it where it cannot clean up.
        asyncio.run(until_interrupted(draw(client.path, live, round(interval * 1000))))


async def draw(path: str, live: Live, interval_ms: int) -> None:
    """Draw every change of the state, until the daemon stops, q is typed, or a signal cancels it."""
    before: tuple[SetState, float] | None = None
    screen = Screen(live)
    async with Client(path) as client, aclosing(client.watch(interval_ms)) as states:
        with keys(screen.typed):
            async for state in states:
                now = time.monotonic()
                screen.show(Fitted(layouts(state, rates(before, state, now))))
                before = state, now


class Screen:
    """What is on the terminal: the picture, or the help."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._picture: RenderableType = ""
        self._has_help = False
        self._task = asyncio.current_task()

    def show(self, drawn: RenderableType) -> None:
        """Show a new picture, unless the help is shown."""
        self._picture = drawn
        self._live.update(HELP if self._has_help else drawn, refresh=True)

    def typed(self, key: str) -> None:
        """Handle a key: q ends it, ? shows the help, and any key ends that."""
        if key in ("q", "Q") and self._task is not None:
            self._task.cancel()
            return
        self._has_help = not self._has_help and key in ("?", "h")
        self.show(self._picture)


@contextmanager
def keys(typed: Callable[[str], None]) -> Iterator[None]:
    """Call typed with each key that is pressed, as long as the block runs; stdin may be no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        for key in os.read(terminal, 64).decode("ascii", "replace"):
            typed(key)

    try:
        tty.setcbreak(terminal)
        loop.add_reader(terminal, read)
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def rates(before: tuple[SetState, float] | None, state: SetState, now: float) -> dict[str, float]:
    """Returns the rates per second since the previous update, over all members."""
    if before is None or now <= before[1]:
        return {}
    old, new = totals(before[0]), totals(state)
    return {name: (new[name] - old[name]) / (now - before[1]) for name in new}


def totals(state: SetState) -> dict[str, int]:
    """Returns the counters that only increase."""
    return {
        "sectors allocated": state.allocated_sectors,
        "buckets taken": sum(sum(member.allocations.values()) for member in state.members),
        "invalidated": sum(sum(member.invalidations.values()) for member in state.members),
        "discarded": sum(member.discards for member in state.members),
        "prio writes": sum(member.prio_writes for member in state.members),
    }
