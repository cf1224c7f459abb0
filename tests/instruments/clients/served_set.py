# SPDX-License-Identifier: GPL-2.0-only
"""A real set on a memory device or an image, behind a real socket, in this process."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcached.device.block_device import BlockDevice
from bcached.device.file_device import FileDevice
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.service.listening import bind_unix
from bcached.service.methods.cache_service import CacheService
from bcached.service.socket.socket_server import SocketServer
from bcached.service.users.access import Access
from bcached.service.users.peer import Peer, peer_of
from bcached.service.users.socket_limits import SocketLimits
from bcached.state.buckets.bucket_table import State
from bcached.store.make.layout import lay_out, plan_set
from instruments.devices.memory_device import MemoryDevice

BUCKET_BYTES = 64 << 10
BUCKET_SECTORS = BUCKET_BYTES // 512
SET_BYTES = 64 << 20
ON_THE_WAY = (State.CLEAN, State.EMPTY, State.FREE_INC, State.UNUSED)  # such buckets become free


@dataclass
class Served:
    """A set that is served."""

    path: str
    cache_set: CacheSet
    server: SocketServer

    @property
    def is_exhausted(self) -> bool:
        """Whether no bucket is on its way to a reserve, which may take long when the machine is busy."""
        counts = [member.buckets.table.counts for member in self.cache_set.members]
        return not any(of_member[state] for of_member in counts for state in ON_THE_WAY)


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    *,
    members: int = 1,
    image: bool = False,
    paths: Sequence[str] = (),
    access: Access | None = None,
    limits: SocketLimits | None = None,
    block_bytes: int = 4096,
    size_bytes: int = SET_BYTES,
    reservations: int = 65536,
    pins: int = 65536,
    synchronous: bool = True,
    mode: int = 0o600,
    identify: Callable[[socket.socket], Peer] = peer_of,
) -> AsyncIterator[Served]:
    """A fresh set with one volume (inode 0), served at folder/s; its end is checked for broken invariants."""
    devices: list[BlockDevice] = [await FileDevice.open(path) for path in paths]
    for number in range(0 if paths else members):
        if image:
            file_path = folder / f"image{number}"
            with file_path.open("wb") as file:
                file.truncate(size_bytes)
            devices.append(await FileDevice.open(str(file_path)))
        else:
            devices.append(MemoryDevice(size_bytes, path=f"memory{number}"))
    await lay_out(plan_set(devices, bucket_bytes=BUCKET_BYTES, block_bytes=block_bytes), devices)
    options = SetOptions(
        str(folder),
        str(folder),
        restart_grace_s=0,
        seed=1,
        reservations_per_connection=reservations,
        pins_per_connection=pins,
        synchronous=synchronous,
    )
    async with running(devices, options) as cache_set:
        assert await cache_set.volumes.create("first", 0, None) == 0
        service = CacheService(cache_set)
        access = access or Access([], [], [])
        async with SocketServer(service, access, limits or SocketLimits(), identify) as server:
            socket_path = str(folder / "s")
            server.listen(bind_unix(socket_path, mode))
            yield Served(socket_path, cache_set, server)
        assert cache_set.verify() == []
