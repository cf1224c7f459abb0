"""What the verbs that look at devices without a daemon share: opening them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import click

from bcached.device import FileDevice
from bcached.device.claims.claim import user_of


@asynccontextmanager
async def opened(paths: Sequence[str], *, to_change: bool = False) -> AsyncIterator[list[FileDevice]]:
    """The devices, read-only and without a lock: they may be looked at while their daemon runs.

    To be changed they are locked, and refused if a daemon has them.
    """
    async with AsyncExitStack() as stack:
        devices = []
        for path in paths:
            device = await FileDevice.open(path, writable=to_change, exclusive=to_change)
            stack.push_async_callback(device.close)
            devices.append(device)
        yield devices


def warn_if_used(paths: Sequence[str]) -> list[str]:
    """Say which devices are in use: what is found on them may be of several moments. The words said."""
    warnings = []
    for path in paths:
        user = user_of(path)
        if user is not None:
            warnings.append(f"{path} is in use by {user}: what is read may be of several moments")
            click.echo(f"bcachectl: {warnings[-1]}", err=True)
    return warnings
