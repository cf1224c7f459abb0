# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl top`: the state of the set, live."""

import asyncio
import time
from contextlib import aclosing, suppress

import click
from rich.console import Console
from rich.live import Live

from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import until_interrupted
from bcached.cli.online.daemon import connected
from bcached.cli.online.picture import picture
from bcached.client.client import Client
from bcached.set_state import SetState


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
    """Show the set's state, live, until Ctrl-C. Without a terminal, or with --json, use status."""
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
    """Draw every change of the state, until the daemon stops or a signal cancels it."""
    before: tuple[SetState, float] | None = None
    async with Client(path) as client, aclosing(client.watch(interval_ms)) as states:
        async for state in states:
            now = time.monotonic()
            live.update(picture(state, rates(before, state, now)), refresh=True)
            before = state, now


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
