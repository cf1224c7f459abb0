# SPDX-License-Identifier: GPL-2.0-only
"""Opening devices, for the verbs that read them without a daemon."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import click

from bcached.device import FileDevice
from bcached.device.claims.claim import refuse_writers, user_of


@asynccontextmanager
async def opened(
    paths: Sequence[str], *, to_change: bool = False, to_read_alone: bool = False
) -> AsyncIterator[list[FileDevice]]:
    """Yields the devices, opened read-only and without a lock: they may be read while their daemon runs.

    To be changed, or read alone, they are locked, and refused if a daemon, the kernel or another process that
    may write has them open.
    """
    async with AsyncExitStack() as stack:
        devices = []
        for path in paths:
            device = await FileDevice.open(path, writable=to_change, exclusive=to_change or to_read_alone)
            stack.push_async_callback(device.close)
            if to_change or to_read_alone:
                await asyncio.to_thread(refuse_writers, path)
            devices.append(device)
        yield devices


def warn_if_used(paths: Sequence[str]) -> list[str]:
    """Warn of devices in use: what is read may not be of one instant. Returns the warnings."""
    warnings = []
    for path in paths:
        user = user_of(path)
        if user is not None:
            warnings.append(f"{path} is in use by {user}: what is read may not be of one instant")
            click.echo(f"bcachectl: {warnings[-1]}", err=True)
    return warnings
