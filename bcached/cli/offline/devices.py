# SPDX-License-Identifier: GPL-2.0-only
"""Opening devices, for the verbs that read them without a daemon."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import click

from bcached.device import FileDevice
from bcached.device.claims.claim import refuse_writers, user_of
from bcached.device.signatures import find_signatures
from bcached.errors import BcachedError

PARTITION_TABLES = {"gpt", "dos", "PMBR"}


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


@contextmanager
def partitions_told(paths: Sequence[str]) -> Iterator[None]:
    """If what is inside fails, warn of devices that have partitions: bcache may be on one of these."""
    try:
        yield
    except BcachedError:
        warn_if_partitioned(paths)
        raise


def warn_if_partitioned(paths: Sequence[str]) -> list[str]:
    """Warn of devices that have a partition table, and no superblock of bcache. Returns the warnings."""
    warnings = []
    for path in dict.fromkeys(paths):
        if table := partition_table_of(path):
            warnings.append(
                f"{path} has a partition table ({table}): if bcache is on a partition, name that (lsblk)"
            )
            click.echo(f"bcachectl: {warnings[-1]}", err=True)
    return warnings


def partition_table_of(path: str) -> str:
    """Returns the kind of the partition table on a device without a superblock of bcache; empty if none."""
    try:
        names = [signature.name for signature in find_signatures(path)]
    except (BcachedError, OSError):
        return ""
    return "" if "bcache" in names else next((name for name in names if name in PARTITION_TABLES), "")


def warn_if_used(paths: Sequence[str]) -> list[str]:
    """Warn of devices in use: what is read may not be of one instant. Returns the warnings."""
    warnings = []
    for path in paths:
        user = user_of(path)
        if user is not None:
            warnings.append(f"{path} is in use by {user}: what is read may not be of one instant")
            click.echo(f"bcachectl: {warnings[-1]}", err=True)
    return warnings
