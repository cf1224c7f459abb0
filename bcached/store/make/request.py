# SPDX-License-Identifier: GPL-2.0-only
"""A request to lay out a set: on which paths, and what may be overwritten; checked against what exists.

Everything is checked on all devices before anything is written on any. libblkid reports what a device holds;
opening it shows whether it is in use, which no option overrides.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from uuid import UUID

from bcached.device import FileDevice
from bcached.device.image_file import create_image
from bcached.device.signatures import Signature, find_signatures
from bcached.errors import DeviceError, DeviceRefused
from bcached.format.sizes import PAGE_BYTES
from bcached.set_state import Replacement
from bcached.store.make.former_contents import losses
from bcached.store.make.layout import (
    BUCKET_BYTES_DEFAULT,
    Layout,
    Target,
    erase_signatures,
    lay_out,
    plan_set,
    refuse_duplicates,
    refuse_signatures,
)
from bcached.units import SECTOR_BYTES

ERASE_ROUNDS_MAX = 32  # a backup table is found only when the first one is gone; no format has that many


@dataclass(frozen=True, slots=True)
class MakeRequest:
    """What to make of which paths; image_bytes requests new image files."""

    paths: tuple[str, ...]
    bucket_bytes: int = BUCKET_BYTES_DEFAULT
    block_bytes: int | None = None
    image_bytes: int | None = None
    replacement: Replacement = Replacement.LRU
    discard: bool = False
    set_uuid: UUID | None = None
    force: bool = False
    wipe_bcache: bool = False
    dry_run: bool = False

    def plan(self, targets: Sequence[Target]) -> Layout:
        """The layout of these targets. Blocks of images are a page: a torn one is half a block otherwise."""
        block_bytes = self.block_bytes
        if block_bytes is None and any(self.image_bytes or _is_image(target.path) for target in targets):
            block_bytes = PAGE_BYTES
        return plan_set(
            targets,
            bucket_bytes=self.bucket_bytes,
            block_bytes=block_bytes,
            replacement=self.replacement,
            discard=self.discard,
            set_uuid=self.set_uuid,
        )


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image file that does not exist yet."""

    path: str
    size_bytes: int
    logical_block_bytes: int = SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class MakeOutcome:
    """What was laid out, or would be, and what was found on the devices before."""

    layout: Layout
    erased: dict[str, tuple[Signature, ...]]
    lost: dict[str, str] = field(default_factory=dict)  # by path: bcache data on it that may be needed

    @property
    def warnings(self) -> list[str]:
        """The disadvantages of a valid layout."""
        return [
            f"{member.path}: its buckets are of one block: the Linux kernel crashes at the first key that it "
            "writes to such a set, as once a backing device is attached; use smaller blocks (-w) or "
            "larger buckets (-b) if it is to use the set"
            for member in self.layout.members
            if member.superblock.bucket_sectors == member.superblock.block_sectors
        ]


async def make_set(request: MakeRequest) -> MakeOutcome:
    """Lay out the set; with dry_run, change nothing. Raises DeviceRefused and others if it cannot be done."""
    refuse_duplicates(request.paths)
    if request.image_bytes is None:
        return await _make_on(request)
    for path in request.paths:
        if not request.force:
            await _refuse_losses(path)
    new = [path for path in request.paths if not _refuse_unless_replaceable(path, request.force)]
    layout = request.plan([NewImage(path, request.image_bytes) for path in request.paths])
    if request.dry_run:
        return MakeOutcome(layout, {})
    created: list[str] = []
    try:
        for path in request.paths:
            create_image(path, request.image_bytes, replace=path not in new)
            created.append(path)
        return await _make_on(request)
    except BaseException:
        for path in set(created) & set(new):
            with suppress(OSError):
                os.unlink(path)
        raise


def _refuse_unless_replaceable(path: str, force: bool) -> bool:
    """Whether there is a file that may be replaced. Raises DeviceRefused if it may not be."""
    if not os.path.lexists(path):
        return False
    if not _is_image(path):
        raise DeviceRefused(path, "exists and is no image file; --size is for making one")
    if not force:
        raise DeviceRefused(path, "exists already; --force replaces it, and what it holds is lost")
    return True


async def _refuse_losses(path: str) -> None:
    """Refuse an existing image file with data that may be needed."""
    try:
        device = await FileDevice.open(path, writable=False, exclusive=False)
    except DeviceError:
        return
    try:
        for words in (await losses([device])).values():
            raise _loss(path, words)
    finally:
        await device.close()


def _loss(path: str, words: str) -> DeviceRefused:
    """Returns the refusal of a device with data that may be needed. It names no option that overrides it."""
    look = (
        f"`bcachectl rescue -n {path} --backing DEV` says what can be written back, without -n it is written"
    )
    remedy = f"Copy the device, or write back dirty data first: {look}; nothing was changed"
    if "backing device" in words:
        remedy = "Write back its dirty data and copy what is on it first; nothing was changed"
    return DeviceRefused(path, f"{words}: that would be lost. {remedy}")


async def _make_on(request: MakeRequest) -> MakeOutcome:
    """Lay out what exists."""
    async with AsyncExitStack() as stack:
        devices = []
        for path in request.paths:
            _refuse_missing(path)
            device = await FileDevice.open(path, writable=not request.dry_run)
            stack.push_async_callback(device.close)
            devices.append(device)
        lost = await losses(devices)
        if lost and not request.force:
            raise _loss(*next(iter(lost.items())))
        erased = {path: _signatures(path, request) for path in request.paths}
        layout = request.plan(devices)
        if not request.dry_run:
            for device in devices:
                await erase_all(device, erased[device.path])
            await lay_out(layout, devices)
        return MakeOutcome(layout, erased, lost)


def _refuse_missing(path: str) -> None:
    if not os.path.lexists(path):
        raise DeviceRefused(path, "no such file or device; --size SIZE makes an image file")


def _is_image(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _signatures(path: str, request: MakeRequest) -> tuple[Signature, ...]:
    """Returns the device's signatures. Raises DeviceRefused if one may not be overwritten."""
    found = find_signatures(path)
    if not request.force:
        refused = [s for s in found if not (request.wipe_bcache and s.name == "bcache")]
        is_bcache_only = all(s.name == "bcache" for s in refused)
        refuse_signatures(path, refused, "--wipe-bcache" if is_bcache_only else "--force")
    return found


async def erase_all(device: FileDevice, signatures: tuple[Signature, ...]) -> None:
    """Erase a device's signatures until none is found. Raises DeviceRefused if one cannot be erased."""
    for _ in range(ERASE_ROUNDS_MAX):
        if not any(signature.offset is not None for signature in signatures):
            return
        await erase_signatures(device, signatures)
        signatures = find_signatures(device.path)
    raise DeviceRefused(
        device.path, f"a signature is still found after {ERASE_ROUNDS_MAX} rounds of erasing: {signatures[0]}"
    )
