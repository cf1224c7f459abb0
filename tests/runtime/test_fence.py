# SPDX-License-Identifier: GPL-2.0-only
"""No bucket of a set that has run before is taken while writers of previous runs hold leases."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bcached.client.lease import Lease
from bcached.device.block_device import BlockDevice
from bcached.device.claims.lease_file import OldLease, boot_id, create_lease, old_leases
from bcached.errors import DeviceError
from bcached.runtime.fence import wait_for_old_writers
from bcached.runtime.lifetime import running
from instruments.clients.stranger import stranger
from instruments.samples.living_set import fresh_members, reopened, set_options
from instruments.time.patience import patience
from instruments.time.virtual_time import in_virtual_time

NAME = "set"
OTHER_BOOT = "00000000-0000-0000-0000-000000000000"


async def waited_s(folder: Path, grace_s: float = 10.0) -> float:
    begun = asyncio.get_running_loop().time()
    await wait_for_old_writers(old_leases(str(folder), NAME), grace_s, lambda _: None)
    return asyncio.get_running_loop().time() - begun


def lease(folder: Path, life: int = 1, boot: str | None = None) -> str:
    return create_lease(str(folder), NAME, life, boot_id() if boot is None else boot)


def hold(path: str, how: int = fcntl.LOCK_SH) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, how)
    return descriptor


@in_virtual_time
async def test_without_any_lease_the_whole_grace_passes(tmp_path: Path) -> None:
    assert await waited_s(tmp_path) == pytest.approx(10)


@in_virtual_time
async def test_leases_that_are_let_go_need_no_wait(tmp_path: Path) -> None:
    lease(tmp_path, 1)
    lease(tmp_path, 2)
    assert await waited_s(tmp_path) == 0


@in_virtual_time
async def test_one_that_is_held_is_waited_for(tmp_path: Path) -> None:
    lease(tmp_path, 1)
    descriptor = hold(lease(tmp_path, 2))
    asyncio.get_running_loop().call_later(3, os.close, descriptor)
    assert await waited_s(tmp_path) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("how", ["LOCK_SH", "LOCK_EX", "F_RDLCK"])
def test_a_lock_of_either_kind_holds_a_lease(tmp_path: Path, how: str) -> None:
    old = OldLease(lease(tmp_path), boot_id())
    with stranger(old.path, how, name="writer") as holder:
        assert not old.is_released()
        if how != "F_RDLCK" or os.geteuid() == 0:  # a record lock shows only among what we may look at
            assert [(it.pid, it.command) for it in old.holders()] == [(holder.pid, "writer")]
    assert old.is_released()
    assert old.holders() == []


@in_virtual_time
async def test_the_librarys_lease_is_waited_for(tmp_path: Path) -> None:
    held = Lease(lease(tmp_path))
    asyncio.get_running_loop().call_later(3, held.release)
    assert await waited_s(tmp_path) == pytest.approx(3, abs=0.1)


def test_looking_at_a_lease_keeps_no_client_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, flock, seen = OldLease(lease(tmp_path), boot_id()), fcntl.flock, []

    def meanwhile(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        Lease(old.path).release()
        seen.append(how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    assert old.is_released()
    assert seen


@in_virtual_time
async def test_but_for_no_longer_than_the_grace(tmp_path: Path) -> None:
    descriptor = hold(lease(tmp_path))
    assert await waited_s(tmp_path) == pytest.approx(10)
    assert await waited_s(tmp_path, 0) == 0
    os.close(descriptor)


@in_virtual_time
async def test_no_writer_outlives_a_boot(tmp_path: Path) -> None:
    descriptor = hold(lease(tmp_path, boot=OTHER_BOOT))
    assert await waited_s(tmp_path) == 0
    os.close(descriptor)


@in_virtual_time
async def test_one_of_this_boot_among_others_counts(tmp_path: Path) -> None:
    lease(tmp_path, 1, OTHER_BOOT)
    descriptor = hold(lease(tmp_path, 2))
    assert await waited_s(tmp_path) == pytest.approx(10)
    os.close(descriptor)


@in_virtual_time
async def test_one_that_cannot_be_read_may_be_of_this_boot(tmp_path: Path) -> None:
    path = lease(tmp_path, boot="")
    descriptor = hold(path)
    assert await waited_s(tmp_path) == pytest.approx(10)
    os.close(descriptor)
    Path(path).unlink()
    (tmp_path / f"{NAME}.broken.lease").write_bytes(b"\xff\xfe")
    assert await waited_s(tmp_path) == 0, "nobody holds it"


@in_virtual_time
async def test_leases_of_another_set_do_not_matter(tmp_path: Path) -> None:
    create_lease(str(tmp_path), "another", 1, boot_id())
    assert await waited_s(tmp_path) == pytest.approx(10)


@in_virtual_time
async def test_one_that_vanishes_meanwhile_is_let_go(tmp_path: Path) -> None:
    path = lease(tmp_path)
    descriptor = hold(path)
    asyncio.get_running_loop().call_later(2, os.unlink, path)
    assert await waited_s(tmp_path) == pytest.approx(2, abs=0.1)
    os.close(descriptor)


async def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    path = lease(tmp_path)
    code = f"""if True:
        import fcntl, time
        file = open({path!r})
        fcntl.flock(file, fcntl.LOCK_SH)
        print("held", flush=True)
        time.sleep(99)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        waiting = asyncio.ensure_future(waited_s(tmp_path, 60))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        process.kill()
        async with patience(10):
            await waiting


def test_a_lease_is_not_made_over_another_nor_through_a_link(tmp_path: Path) -> None:
    path = lease(tmp_path)
    assert Path(path).stat().st_mode & 0o777 == 0o440
    with pytest.raises(DeviceError, match="cannot make the lease file: open: File exists"):
        lease(tmp_path)
    (tmp_path / f"{NAME}.{2:016x}.lease").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError):
        lease(tmp_path, 2)
    assert not (tmp_path / "elsewhere").exists()


async def opening_s(devices: Sequence[BlockDevice], folder: Path, told: list[str]) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with running(devices, set_options(folder, restart_grace_s=10), told.append):
        return loop.time() - begun


@in_virtual_time
async def test_a_set_opens_when_its_writers_are_gone(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    told: list[str] = []
    assert await opening_s(devices, tmp_path, told) == 0, "a fresh set has no writers"
    assert told == ["reading the set", "first run", "serving"]
    assert await opening_s(reopened(devices), tmp_path, told) == 0, "nobody held its lease"
    (path,) = tmp_path.glob("*.lease")
    descriptor = hold(str(path))
    again = devices[0].reopen()
    asyncio.get_running_loop().call_later(4, os.close, descriptor)
    assert await opening_s([again], tmp_path, told) == pytest.approx(4, abs=0.1)
    assert "waiting up to 10 s for writers of a previous run" in told
    assert f"the lease {path} is held by process {os.getpid()}" in "".join(told)
    (newer,) = tmp_path.glob("*.lease")
    assert newer != path, "every life has its own, and the old ones are gone"


@in_virtual_time
async def test_whoever_stops_an_opening_that_waits_leaves_the_leases(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    await opening_s(devices, tmp_path, [])
    (path,) = tmp_path.glob("*.lease")
    descriptor = hold(str(path))
    image = devices[0].image()
    opening = asyncio.ensure_future(opening_s([devices[0].reopen()], tmp_path, []))
    await asyncio.sleep(3)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert list(tmp_path.glob("*.lease")) == [path]
    assert devices[0].image() == image, "nothing was touched"
    os.close(descriptor)
