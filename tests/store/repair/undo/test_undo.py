# SPDX-License-Identifier: GPL-2.0-only
"""Undo files: all that a repair overwrote comes back to the byte, also after an interruption anywhere."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from bcached.device.block_device import BytesLike
from bcached.errors import DeviceError, DeviceRefused, SetRefused
from bcached.store.patched_device import Patch
from bcached.store.repair.applying import Applying
from bcached.store.repair.repair_step import RepairStep
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice

SIZE = 64 << 10


class FailingAtWrite(PassingDevice):
    """A device whose write with a number fails, with half of its sectors written."""

    def __init__(self, inner: MemoryDevice, number: int) -> None:
        super().__init__(inner)
        self.left = number

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        self.left -= 1
        if self.left < 0:
            half = len(data) // 1024 * 512
            if half:
                await self.inner.write(offset, bytes(data)[:half])
            raise DeviceError(self.path, "cannot write: it is broken")
        await self.inner.write(offset, data, durable=durable)


def some_steps(random: Random) -> list[RepairStep]:
    """Steps whose patches overlap, within a step and between two of them."""

    def patches() -> list[Patch]:
        return [
            Patch(
                random.randrange(2), random.randrange(SIZE - 4096), random.randbytes(random.randint(1, 4096))
            )
            for _ in range(random.randint(1, 12))
        ]

    return [RepairStep("", [patches() for _ in range(2)]) for _ in range(2)]


def expected(images: Sequence[bytes], steps: Sequence[RepairStep]) -> list[bytes]:
    found = [bytearray(image) for image in images]
    for step in steps:
        for patch in step.patches:
            found[patch.member][patch.byte : patch.byte + len(patch.data)] = patch.data
    return [bytes(image) for image in found]


@pytest.mark.parametrize("block", [512, 4096])
async def test_what_was_written_comes_back_to_the_byte(tmp_path: Path, block: int) -> None:
    for seed in range(20):
        random = Random(seed)
        images = [random.randbytes(SIZE) for _ in range(2)]
        devices = [MemoryDevice.holding(image) for image in images]
        for device in devices:
            device.logical_block_bytes = block
        steps = some_steps(random)
        path = tmp_path / f"undo{seed}"
        log = await UndoLog.create(str(path), devices)
        await Applying(devices, log).run(steps)
        log.log.close()
        assert [device.image() for device in devices] == expected(images, steps)
        for _ in range(2):  # it may be repeated
            await Undo.read(str(path)).restore(devices)
            assert [device.image() for device in devices] == images


async def test_a_repair_interrupted_at_any_write_is_undone(tmp_path: Path) -> None:
    for number in range(30):
        random = Random(7)
        images = [random.randbytes(SIZE) for _ in range(2)]
        disks = [MemoryDevice.holding(image) for image in images]
        devices = [FailingAtWrite(disk, number) for disk in disks]
        path = tmp_path / f"undo{number}"
        log = await UndoLog.create(str(path), devices)
        with suppress(DeviceError):
            await Applying(devices, log).run(some_steps(random))
        log.log.close()
        undo = Undo.read(str(path))
        if number % 2:  # so may the restoring be
            with pytest.raises(DeviceError):
                await undo.restore([FailingAtWrite(disk, 1) for disk in disks])
        await undo.restore(disks)
        assert [disk.image() for disk in disks] == images


async def test_a_record_that_is_cut_off_was_not_written_yet(tmp_path: Path) -> None:
    image = Random(1).randbytes(SIZE)
    device = MemoryDevice.holding(image)
    path = tmp_path / "undo"
    log = await UndoLog.create(str(path), [device])
    await Applying([device], log).run([RepairStep("", [[Patch(0, 512, bytes(512))]])])
    size = path.stat().st_size
    log.add(0, 4096, bytes(512), bytes(512))
    await log.settle()
    log.log.close()
    whole = path.read_bytes()
    for cut in range(size, len(whole), 7):
        path.write_bytes(whole[:cut])
        undo = Undo.read(str(path))
        assert len(undo.first) == 1
    await undo.restore([device])
    assert device.image() == image


async def test_a_file_says_whether_its_end_is_missing(tmp_path: Path) -> None:
    device, path = MemoryDevice.holding(bytes(SIZE)), tmp_path / "undo"
    log = await UndoLog.create(str(path), [device])
    ends = [path.stat().st_size]
    for byte in (0, 4096):
        log.add(0, byte, bytes(512), b"x" * 512)
        await log.settle()
        ends.append(path.stat().st_size)
    await log.finish()
    log.log.close()
    whole = path.read_bytes()
    assert Undo.read(str(path)).is_whole
    for cut in ends:
        path.write_bytes(whole[:cut])
        assert not Undo.read(str(path)).is_whole
    for wrong in (whole[: ends[1]] + whole[ends[2] :], whole + b"x", whole + whole[ends[2] :]):
        path.write_bytes(wrong)
        with pytest.raises(SetRefused, match="damaged"):
            Undo.read(str(path))


async def test_what_another_program_wrote_since_stays(tmp_path: Path) -> None:
    device = MemoryDevice.holding(Random(1).randbytes(SIZE))
    path = tmp_path / "undo"
    log = await UndoLog.create(str(path), [device])
    await Applying([device], log).run([RepairStep("", [[Patch(0, 512, bytes(2048))]])])
    log.log.close()
    await device.write(1024, b"x" * 512)
    before = device.image()
    with pytest.raises(SetRefused, match="sector 2 was written after the repair"):
        await Undo.read(str(path)).restore([device])
    assert device.image() == before


async def test_neither_another_file_nor_a_damaged_one_nor_another_device_is_taken(tmp_path: Path) -> None:
    device = MemoryDevice.holding(bytes(SIZE))
    path = tmp_path / "undo"
    log = await UndoLog.create(str(path), [device])
    for byte in (0, 4096):
        log.add(0, byte, bytes(512), b"x" * 512)
    await log.settle()
    log.log.close()
    with pytest.raises(SetRefused, match="expected the device of 65536 bytes"):
        await Undo.read(str(path)).restore([MemoryDevice.holding(bytes(2 * SIZE))])
    raw = path.read_bytes()
    damaged = raw.replace(b'"byte":0', b'"byte":9')
    damaged = damaged[:300] + b"\xff" + damaged[301:]
    for wrong in (b"", b"nonsense\n", bytes(2000), damaged):
        path.write_bytes(wrong)
        with pytest.raises(SetRefused):
            Undo.read(str(path))
    with pytest.raises(DeviceRefused, match="exists already"):
        await UndoLog.create(str(path), [device])
    for wrong, reason in (
        (b"nonsense\n", "expected an undo file"),
        (bytes(2000), "expected an undo file"),
        (damaged, "damaged"),
        (raw + b"x", "cannot be continued, memory: sector 8 was"),
    ):
        path.write_bytes(wrong)
        await device.write(4096, b"z" * 512)
        with pytest.raises(DeviceRefused, match=f"exists already, and .*{reason}.*choose another name"):
            await UndoLog.open(str(path), [device])
        assert path.read_bytes() == wrong
    with pytest.raises(DeviceError, match="cannot create"):
        await UndoLog.create(str(tmp_path / "no" / "undo"), [device])


async def test_a_file_with_nothing_to_undo_is_begun_again(tmp_path: Path) -> None:
    """1. Interrupted before anything was overwritten. 2. All was restored."""
    device, path = MemoryDevice.holding(Random(1).randbytes(SIZE)), tmp_path / "undo"
    before = device.image()
    log = await UndoLog.create(str(path), [device])
    header = path.stat().st_size
    log.add(0, 512, before[512:1024], b"x" * 512)
    await log.settle()
    log.log.close()
    left = path.read_bytes()
    for cut in (*range(0, len(left), 37), header - 1, header, header + 1, len(left)):
        path.write_bytes(left[:cut])
        path.chmod(0o644)
        log = await UndoLog.open(str(path), [device])
        assert (path.stat().st_size, path.stat().st_mode & 0o777) == (header, 0o600)
        log.log.close()
    path.write_bytes(left)
    log = await UndoLog.open(str(path), [device])
    await Applying([device], log).run([RepairStep("", [[Patch(0, 1024, bytes(512))]])])
    await log.finish()
    log.log.close()
    with pytest.raises(DeviceRefused, match="undoes a repair that ended, by `bcachectl repair --restore"):
        await UndoLog.open(str(path), [device])
    await Undo.read(str(path)).restore([device])
    assert device.image() == before
    (await UndoLog.open(str(path), [device])).log.close()
    assert path.stat().st_size == header


async def test_a_repair_interrupted_twice_is_undone_by_one_file(tmp_path: Path) -> None:
    for number in range(24):
        random, path = Random(number), tmp_path / f"undo{number}"
        images = [random.randbytes(SIZE) for _ in range(2)]
        disks = [MemoryDevice.holding(image) for image in images]
        steps = some_steps(random)
        for writes in (number % 6, number // 6, 1 << 20):
            devices = [FailingAtWrite(disk, writes) for disk in disks]
            log = await UndoLog.open(str(path), devices)
            with suppress(DeviceError):
                await Applying(devices, log).run(steps)
                await log.finish()
            log.log.close()
            if writes < 6:  # the power failed while the file was written
                path.write_bytes(path.read_bytes() + b'{"device":0,"by')
        assert [disk.image() for disk in disks] == expected(images, steps)
        undo = Undo.read(str(path))
        assert undo.is_whole
        await undo.restore(disks)
        assert [disk.image() for disk in disks] == images


async def test_the_undo_file_of_other_devices_stays(tmp_path: Path) -> None:
    device, path = MemoryDevice.holding(bytes(SIZE)), tmp_path / "undo"
    log = await UndoLog.create(str(path), [device])
    log.add(0, 0, bytes(512), b"x" * 512)
    await log.settle()
    log.log.close()
    left = path.read_bytes()
    for others in ([MemoryDevice(2 * SIZE)], [device, MemoryDevice(SIZE)]):
        with pytest.raises(DeviceRefused, match="it is the undo file of a repair of"):
            await UndoLog.open(str(path), others)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(DeviceRefused, match="it is a link"):
        await UndoLog.open(str(tmp_path / "link"), [device])
    with pytest.raises(DeviceRefused, match="expected a file, found a directory"):
        await UndoLog.open(str(tmp_path), [device])
    assert path.read_bytes() == left
