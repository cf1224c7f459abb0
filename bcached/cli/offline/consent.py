# SPDX-License-Identifier: GPL-2.0-only
"""The user's consent to changes for good, reports of progress, and what to do next if a write fails."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from bcached.cli.global_options import GlobalOptions
from bcached.cli.interruption import signals_interrupt
from bcached.errors import DeviceError, DeviceRefused
from bcached.units import SECTOR_BYTES, format_size


def ask(options: GlobalOptions, target: str, told: Sequence[str], *, yes: bool) -> None:
    """Get the user's consent to write to target, on a terminal after `told`, or by --yes."""
    if yes:
        return
    if options.as_json or not sys.stdin.isatty():
        raise click.UsageError(f"it writes to {target}: say --yes, or -n to see what it would do")
    click.echo("\n".join(told), err=True)
    confirm(f"Write to {target}?")


def confirm(question: str) -> None:
    """Ask a question on the terminal. Raises click.Abort at any answer but yes, and at a signal."""
    with signals_interrupt():
        click.confirm(question, abort=True, err=True)


@contextmanager
def going_on(hint: str) -> Iterator[None]:
    """Add what to do next to the error of a device inside."""
    try:
        yield
    except DeviceRefused:
        raise
    except DeviceError as error:
        raise DeviceError(error.path, f"{error.reason}; {hint}") from None


@contextmanager
def progress_line(total_sectors: int, done: str) -> Iterator[Callable[[int], None]]:
    """Yields a report of the sectors that are done: a line on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = format_size(total_sectors * SECTOR_BYTES)
    is_shown = False

    def show(sectors: int) -> None:
        nonlocal is_shown
        is_shown = True
        click.echo(f"\r{format_size(sectors * SECTOR_BYTES)} of {total} {done}  ", nl=False, err=True)

    try:
        yield show
    finally:
        if is_shown:
            click.echo(err=True)


@contextmanager
def reading_line(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], None]]:
    """Yields a count of the index's nodes: once a second a line on a terminal, nothing elsewhere."""
    count, shown = 0, clock()
    is_shown = False

    def show() -> None:
        nonlocal count, shown, is_shown
        count += 1
        now = clock()
        if now >= shown + 1:
            shown, is_shown = now, True
            click.echo(f"\r{count:,} nodes of the index read  ", nl=False, err=True)

    try:
        yield show if sys.stderr.isatty() else lambda: None
    finally:
        if is_shown:
            click.echo(err=True)


@contextmanager
def search_line() -> Iterator[Callable[[int, int], None]]:
    """Yields a report of a search, by sectors: a line on a terminal once there is one, nothing elsewhere."""
    is_shown = False

    def show(searched: int, total: int) -> None:
        nonlocal is_shown
        is_shown = True
        sizes = (format_size(sectors * SECTOR_BYTES) for sectors in (searched, total))
        click.echo(f"\r{' of '.join(sizes)} searched for nodes  ", nl=False, err=True)

    try:
        yield show if sys.stderr.isatty() else lambda *_: None
    finally:
        if is_shown:
            click.echo(err=True)
