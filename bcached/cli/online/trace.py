# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl trace`: the daemon's events as they happen, printed as perf and trace-cmd print the kernel's."""

import asyncio
from contextlib import aclosing, suppress
from difflib import get_close_matches
from fnmatch import fnmatchcase

import click
import msgspec

from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.interruption import until_interrupted
from bcached.cli.online.daemon import connected
from bcached.client.client import Client
from bcached.tracepoints import EVENTS
from bcached.wire.admin_messages import Traced, TraceEvent

KEY = "{inode}:{offset} len {sectors} dirty {dirty:d}"
NODE = "cache{device} bucket {bucket}"
# As the kernel's TP_printk has them, with the number of the device instead of its major and minor.
FORMATS = {
    "bcache_alloc": "allocated cache{device} sector={sector} reserve={reserve}",
    "bcache_alloc_fail": "alloc fail cache{device} reserve={reserve} free {free} free_inc {free_inc} "
    "blocked {blocked}",
    "bcache_invalidate": "invalidated {sectors} sectors at cache{device} sector={sector}",
    "bcache_prio_write": "cache{device} sector={sector} buckets {buckets} in {microseconds} us",
    "bcache_gc_start": "trigger={trigger}",
    "bcache_gc_end": "pointers {pointers} stale {stale} in {microseconds} us",
    "bcache_gc_copy": KEY,
    "bcache_gc_copy_collision": KEY,
    "bcache_cache_insert": KEY,
    "bcache_journal_write": "cache{device} W {sector} + {sectors} words {words}",
    "bcache_journal_full": "",
    "bcache_journal_entry_full": "",
    "bcache_btree_read": NODE,
    "bcache_btree_write": NODE + " written block {block} + {blocks}",
    "bcache_btree_node_alloc": NODE,
    "bcache_btree_node_alloc_fail": "nodes {nodes}",
    "bcache_btree_node_free": NODE,
    "bcache_btree_node_split": NODE + " into {nodes} nodes",
    "bcache_btree_node_compact": NODE,
    "bcache_btree_gc_coalesce": "coalesced {nodes} nodes",
    "bcache_btree_set_root": NODE,
}


@click.command(
    epilog=examples(
        "bcachectl trace                     everything, until Ctrl-C",
        "bcachectl trace alloc alloc_fail    buckets taken, and requests that found none",
        "bcachectl trace 'gc_*' -n 10        ten events of garbage collections",
        "bcachectl trace --list              the names of the events",
    )
)
@click.argument("events", metavar="[EVENT]...", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="COUNT", help="End after so many events.")
@click.option("--list", "only_list", is_flag=True, help="List the events, and what each has.")
@pass_options
def trace(options: GlobalOptions, events: tuple[str, ...], limit: int | None, only_list: bool) -> None:
    """Print the daemon's events as they happen: all of them, or those named EVENT.

    They are the kernel's tracepoints of bcache, under its names; bcache_ may be left out, and * stands for
    anything. A line has the time by the monotonic clock, the event and what it is about, as with perf script.
    With --json each event is a JSON object on a line of its own. Tracing costs the daemon nothing while
    nothing listens; what is not printed in time is dropped and counted.
    """
    if only_list:
        for name, fields in EVENTS.items():
            click.echo(f"{name:30}{' '.join(fields)}".rstrip())
        return
    names = [name for event in events for name in matching(event)]
    with suppress(KeyboardInterrupt), connected(options) as client:
        asyncio.run(until_interrupted(print_events(client.path, names, limit, as_json=options.as_json)))


def matching(event: str) -> list[str]:
    """Returns the events that a name or a pattern stands for, or fails with a suggestion."""
    bare = event.removeprefix("bcache:").removeprefix("bcache_")
    found = [name for name in EVENTS if fnmatchcase(name.removeprefix("bcache_"), bare)]
    if not found:
        close = get_close_matches(f"bcache_{bare}", EVENTS, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else "bcachectl trace --list prints them all"
        raise click.UsageError(f"no event is named {event!r}: {hint}")
    return found


async def print_events(path: str, names: list[str], limit: int | None, *, as_json: bool) -> None:
    """Print events until the limit is reached, the daemon stops or a signal cancels it."""
    async with Client(path) as client, aclosing(client.trace(*names, limit=limit)) as messages:
        async for message in messages:
            for line in lines_of(message, as_json=as_json):
                click.echo(line)


def lines_of(message: Traced, *, as_json: bool) -> list[str]:
    """Returns the lines for the events of one message, and for those that were dropped before."""
    if as_json:
        lost = [msgspec.json.encode({"dropped": message.dropped}).decode()] if message.dropped else []
        return lost + [msgspec.json.encode(event).decode() for event in message.events]
    lost = [f"[LOST {message.dropped} EVENTS]"] if message.dropped else []
    return lost + [line_of(event) for event in message.events]


def line_of(event: TraceEvent) -> str:
    """Returns an event as perf prints it: its time in seconds, its name and its text."""
    seconds, microseconds = divmod(event.time_ns // 1000, 1_000_000)
    if event.name in FORMATS:
        text = FORMATS[event.name].format(**event.fields)
    else:  # of a newer daemon
        text = " ".join(f"{name}={value}" for name, value in event.fields.items())
    return f"{seconds:6}.{microseconds:06}: bcache:{event.name}: {text}".rstrip(": ")
