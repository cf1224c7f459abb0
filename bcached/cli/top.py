"""`bcachectl top`: how the set stands, live."""

import asyncio
import time
from contextlib import aclosing, suppress

import click
from rich.console import Console
from rich.live import Live

from bcached.cli.daemon import connected
from bcached.cli.interruption import until_interrupted
from bcached.cli.picture import picture
from bcached.cli.session import Session, pass_session
from bcached.client.client import Client
from bcached.wire.messages import State


@click.command
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between pictures.",
)
@pass_session
def top(session: Session, interval: float) -> None:
    """How the set stands, live, until Ctrl-C. Off a terminal, or with --json, use status."""
    console = Console(highlight=False)
    if session.as_json or not console.is_terminal:
        raise click.UsageError(
            "top draws on a terminal; bcachectl status prints the same once, also as --json"
        )
    with (
        suppress(KeyboardInterrupt),
        connected(session) as client,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        # All in one run of the loop: between two, Ctrl-C would hit it where it cannot tidy up.
        asyncio.run(until_interrupted(draw(client.path, live, round(interval * 1000))))


async def draw(path: str, live: Live, interval_ms: int) -> None:
    """Draw every state there is news of, until the daemon goes or a signal cancels it."""
    before: tuple[State, float] | None = None
    async with Client(path) as client, aclosing(client.watch(interval_ms)) as states:
        async for state in states:
            now = time.monotonic()
            live.update(picture(state, rates(before, state, now)), refresh=True)
            before = state, now


def rates(before: tuple[State, float] | None, state: State, now: float) -> dict[str, float]:
    """What went on each second since the picture before, over all members."""
    if before is None or now <= before[1]:
        return {}
    old, new = totals(before[0]), totals(state)
    return {name: (new[name] - old[name]) / (now - before[1]) for name in new}


def totals(state: State) -> dict[str, int]:
    """What only ever grows."""
    return {
        "sectors allocated": state.allocated_sectors,
        "buckets taken": sum(sum(member.allocations.values()) for member in state.members),
        "invalidated": sum(sum(member.invalidations.values()) for member in state.members),
        "discarded": sum(member.discards for member in state.members),
        "prio writes": sum(member.prio_writes for member in state.members),
    }
