# SPDX-License-Identifier: GPL-2.0-only
"""Whose lock on a device counts: of those who may own it, and of no client."""

import asyncio
import os
from pathlib import Path

import pytest

from bcached.device import FileDevice
from bcached.device.claims.claim import user_of
from bcached.device.claims.patience import Patience
from bcached.errors import DeviceBusy, DeviceRefused
from instruments.clients.stranger import NOBODY, stranger
from instruments.devices.loop_device import loop_device

HOWS = ["LOCK_SH", "LOCK_EX"]

pytestmark = pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="/proc/locks cannot be read")


async def open_and_close(path: object, reports: list[str] | None = None) -> None:
    told: list[str] = [] if reports is None else reports
    device = await FileDevice.open(str(path), patience=Patience(0.05, told.append))
    await device.close()


@pytest.mark.root
@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("how", HOWS)
async def test_the_lock_of_a_user_who_may_not_own_it_is_ignored_and_told(
    image: Path, how: str, leaves: bool
) -> None:
    told: list[str] = []
    with stranger(image, how, flags=os.O_RDWR, leaves=leaves):
        await open_and_close(image, told)
    assert len(told) == 1
    assert told[0].startswith(f"{image}: ignoring the lock of process ")
    assert told[0].endswith(" (stray, user nobody)")


@pytest.mark.root
async def test_beside_a_shared_lock_of_another_user_ours_is_a_shared_one(image: Path) -> None:
    with stranger(image, "LOCK_SH"):
        device = await FileDevice.open(str(image))
        locks = Path("/proc/locks").read_text().splitlines()
        assert any(f"READ {os.getpid()} " in line and f":{image.stat().st_ino} " in line for line in locks)
        await device.close()


@pytest.mark.root
async def test_the_owner_of_an_image_counts(image: Path) -> None:
    os.chown(image, NOBODY, -1)
    with stranger(image, "LOCK_SH"), pytest.raises(DeviceBusy, match="user nobody"):
        await open_and_close(image)


@pytest.mark.root
async def test_a_program_counts_for_the_user_who_started_it(image: Path) -> None:
    """One with the set-user-id bit runs as root, and for a user who may not own the image."""
    with stranger(image, "LOCK_EX", user=NOBODY, effective=0):
        await open_and_close(image)
    with stranger(image, "LOCK_EX", user=0), pytest.raises(DeviceBusy):
        await open_and_close(image)


@pytest.mark.parametrize("how", HOWS)
async def test_a_lock_of_ours_is_waited_for_and_its_holder_named(image: Path, how: str) -> None:
    told: list[str] = []
    with stranger(image, how, user=os.geteuid()) as holder:
        opening = asyncio.ensure_future(FileDevice.open(str(image), patience=Patience(60, told.append)))
        await asyncio.sleep(0.3)
        assert not opening.done()
        assert len(told) == 1, "once, not at each attempt"
        assert told[0].startswith(f"waiting for {image}: in use: process {holder.pid} (stray, user ")
    await (await opening).close()
    assert len(told) == 1


@pytest.mark.parametrize("how", HOWS)
async def test_the_lock_of_a_daemon_is_not_waited_for(image: Path, how: str) -> None:
    with (
        stranger(image, how, user=os.geteuid(), name="bcached") as holder,
        pytest.raises(
            DeviceRefused, match=rf"in use: process {holder.pid} \(bcached, user .*\) has locked it"
        ) as no,
    ):
        await open_and_close(image)
    assert not isinstance(no.value, DeviceBusy)


@pytest.mark.root
async def test_a_daemon_that_another_users_lock_left_without_one_is_seen(image: Path) -> None:
    with stranger(image, "LOCK_EX"), stranger(image, "", user=0, name="bcached") as daemon:
        with pytest.raises(
            DeviceRefused, match=rf"in use: process {daemon.pid} \(bcached, user root\) serves it"
        ):
            await open_and_close(image)
        assert str(await asyncio.to_thread(user_of, str(image))).startswith("process ")
    with stranger(image, "LOCK_EX"), stranger(image, "", name="bcached"):
        await open_and_close(image)  # a client that took that name


@pytest.mark.root
async def test_the_file_below_a_loop_device_is_claimed_by_the_same_rules(image: Path) -> None:
    with loop_device(image) as path:
        with stranger(image, "LOCK_EX"):
            await open_and_close(path)
        with (
            stranger(image, "LOCK_SH", user=0),
            pytest.raises(DeviceBusy, match=f"its backing file {image} is in use"),
        ):
            await open_and_close(path)


@pytest.mark.root
async def test_a_block_device_that_a_program_has_claimed_is_waited_for(image: Path) -> None:
    told: list[str] = []
    with loop_device(image) as path:
        with stranger(path, "", flags=os.O_RDONLY | os.O_EXCL, user=0) as holder:
            opening = asyncio.ensure_future(FileDevice.open(path, patience=Patience(60, told.append)))
            await asyncio.sleep(0.3)
            assert not opening.done()
            assert len(told) == 1
            assert "in use: another process or the kernel has it open exclusively" in told[0]
            assert f"open in process {holder.pid} (stray, user root)" in told[0]
        await (await opening).close()


@pytest.mark.root
async def test_a_block_device_that_a_daemon_has_claimed_is_not_waited_for(image: Path) -> None:
    with (
        loop_device(image) as path,
        stranger(path, "", flags=os.O_RDONLY | os.O_EXCL, user=0, name="bcached") as holder,
        pytest.raises(
            DeviceRefused, match=rf"in use: process {holder.pid} \(bcached, user root\) serves it"
        ) as no,
    ):
        await open_and_close(path)
    assert not isinstance(no.value, DeviceBusy)


async def test_an_image_that_is_replaced_while_its_lock_is_waited_for_is_refused(image: Path) -> None:
    other = image.with_name("other")
    other.write_bytes(bytes(8192))
    with stranger(image, "LOCK_EX", user=os.geteuid()):
        opening = asyncio.ensure_future(FileDevice.open(str(image), patience=Patience(60)))
        await asyncio.sleep(0.1)
        other.rename(image)
    with pytest.raises(DeviceRefused, match="it was replaced while its lock was waited for"):
        await opening


async def test_a_wait_can_be_ended_at_any_time(image: Path) -> None:
    with stranger(image, "LOCK_EX", user=os.geteuid()):
        opening = asyncio.ensure_future(FileDevice.open(str(image), patience=Patience(60)))
        await asyncio.sleep(0.1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await open_and_close(image)


def test_who_uses_a_device_is_seen_without_touching_its_lock(image: Path) -> None:
    assert user_of(str(image)) is None
    with stranger(image, "LOCK_SH", user=os.geteuid()):
        assert user_of(str(image)) is None, "a shared lock is no daemon's"
    with stranger(image, "LOCK_EX", user=os.geteuid()) as holder:
        assert str(user_of(str(image))).startswith(f"process {holder.pid} (stray, user ")
    with stranger(image, "", user=os.geteuid(), name="bcached") as holder:
        assert str(user_of(str(image))).startswith(f"process {holder.pid} (bcached, user ")
    assert user_of(str(image.with_name("missing"))) is None
