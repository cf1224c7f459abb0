# SPDX-License-Identifier: GPL-2.0-only
"""What a rescue writes to: nothing that is neither a backing device nor an image of a rescue."""

import os

from bcached.cli.offline.devices import opened
from bcached.device import FileDevice
from bcached.device.image_file import create_image, is_unmade
from bcached.device.signatures import find_signatures
from bcached.errors import FormatError, SetRefused
from bcached.store.make.former_contents import losses
from bcached.store.make.journal_traces import has_journal
from bcached.store.rescue.owner_of import BackingFound, read_backing


async def backing_of(target: FileDevice, volume: int | None) -> BackingFound | None:
    """Returns a backing device's superblock; None if it is damaged, and the volume named.

    Raises SetRefused if something else is there.
    """
    try:
        return await read_backing(target)
    except FormatError as error:
        if volume is None:
            raise SetRefused(f"{error}; --volume N says whose data it is") from None
    found = [str(signature) for signature in find_signatures(target.path) if signature.name != "bcache"]
    if await has_journal(target):
        found.append("the journal of a cache set")
    if found:
        raise SetRefused(
            f"{target.path}: has no superblock of a backing device, but {', '.join(found)}: nothing was "
            f"written; --volume {volume} --to FILE writes an image"
        )
    return None


async def refuse_other_file(path: str, size_bytes: int) -> None:
    """Raises SetRefused if a file exists that no interrupted rescue has left."""
    if not _exists(path, size_bytes):
        return
    async with opened([path]) as (file,):
        for words in (await losses([file])).values():
            raise SetRefused(f"{path}: {words}: that would be lost; choose another")


def _exists(path: str, size_bytes: int) -> bool:
    """Whether a file is there. Raises SetRefused if it has another size."""
    if is_unmade(path):
        return False
    if not os.path.isfile(path):
        raise SetRefused(
            f"{path}: expected a new file, or the image of an interrupted rescue: choose another"
        )
    if os.path.getsize(path) != size_bytes:
        raise SetRefused(
            f"{path}: it exists already, and not with the volume's size of {size_bytes} bytes: choose another"
        )
    return True


def create_if_missing(path: str, size_bytes: int) -> None:
    """Create an image, unless an interrupted run has left it."""
    if is_unmade(path):
        create_image(path, size_bytes, replace=True)
