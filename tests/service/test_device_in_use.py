# SPDX-License-Identifier: GPL-2.0-only
"""A daemon whose device, or whose set, another process has: when it waits, when it goes on, when it ends."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from instruments.clients.daemon_process import CONFIG, DaemonProcess, ask, made_image
from instruments.clients.stranger import stranger
from instruments.devices.loop_device import loop_device

LATE_S = 60.0  # for what happens at once where the machine is not busy

pytestmark = pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="/proc/locks cannot be read")


def with_image() -> tuple[DaemonProcess, Path]:
    """A daemon that has not been started yet, and its image."""
    daemon = DaemonProcess()
    image = daemon.folder / "cache.img"
    subprocess.run(["cp", "--sparse=always", made_image(), image], check=True)
    return daemon, image


def warnings(daemon: DaemonProcess) -> list[str]:
    return [line["message"] for line in daemon.logs if line["level"] == "warning"]


def waiting_status(daemon: DaemonProcess) -> str:
    """What it tells the service manager when it begins to wait."""
    while not (status := daemon.wait_until_told("STATUS", None, LATE_S)["STATUS"]).startswith("waiting"):
        pass
    return status


def test_a_lock_that_will_pass_is_waited_for_and_its_holder_named() -> None:
    daemon, image = with_image()
    with ExitStack() as stack:
        holder = stack.enter_context(stranger(image, "LOCK_SH", user=os.geteuid()))
        with daemon:
            named = f"waiting for {image}: in use: process {holder.pid} (stray, user "
            assert waiting_status(daemon).startswith(named)
            assert any("EXTEND_TIMEOUT_USEC" in message for message in daemon.told)
            assert daemon.process is not None
            assert daemon.process.poll() is None
            stack.close()
            assert daemon.wait_until_ready().end(within_s=LATE_S) == 0
            (told,) = warnings(daemon)
            assert told.startswith(named)


def test_a_daemon_that_waits_for_its_device_can_be_stopped() -> None:
    daemon, image = with_image()
    before = image.read_bytes()
    with stranger(image, "LOCK_EX", user=os.geteuid()), daemon:
        assert waiting_status(daemon)
        assert daemon.end(signal.SIGTERM, LATE_S) == 0
        assert image.read_bytes() == before


@pytest.mark.root
def test_no_client_keeps_the_daemon_from_starting_by_a_lock_on_the_image() -> None:
    daemon, image = with_image()
    with stranger(image, "LOCK_EX", flags=os.O_RDWR) as client, daemon:
        daemon.wait_until_ready()
        with on(DaemonProcess(), image) as second:
            assert second.end(None, LATE_S) == 1, "it is the first daemon's all the same"
            assert daemon.process is not None
            assert f"process {daemon.process.pid} (bcached, user root) serves it" in second.log_text()
        assert daemon.end(within_s=LATE_S) == 0
        (told,) = warnings(daemon)
        assert told == f"{image}: ignoring the lock of process {client.pid} (stray, user nobody)"


# Two daemons, one set


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files of a folder: which they are, when they changed, and what is in them."""
    found = {path: path.stat() for path in sorted(folder.iterdir())}
    return {
        path.name: (status.st_ino, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path, status in found.items()
    }


def sharing(daemon: DaemonProcess, first: DaemonProcess, *folders: str) -> DaemonProcess:
    """The daemon, with some of its directories those of the first."""
    text = daemon.config.read_text()
    for folder in folders:
        text = text.replace(f'"{daemon.folder}/{folder}"', f'"{first.folder}/{folder}"')
    daemon.config.write_text(text)
    return daemon


def on(daemon: DaemonProcess, *devices: object) -> DaemonProcess:
    """The daemon, with these devices."""
    named = ", ".join(f'"{device}"' for device in devices)
    daemon.config.write_text(
        CONFIG.format(folder=daemon.folder).replace(f'"{daemon.folder}/cache.img"', named)
    )
    return daemon


@pytest.mark.parametrize("shared", ["state", "run"])
def test_a_daemon_on_a_copy_is_refused_before_it_touches_anything(shared: str) -> None:
    with DaemonProcess() as first, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(first.wait_until_ready().socket_path))
        second = sharing(DaemonProcess(), first, shared)
        image = Path(shutil.copy(first.folder / "cache.img", second.folder))
        before = image.read_bytes(), contents(first.folder / shared)
        with second:
            assert second.end(None, LATE_S) == 1
            (told,) = (line["message"] for line in second.logs if line["level"] == "critical")
            assert first.process is not None
            assert f"is in use: process {first.process.pid} (bcached, user " in told
            assert f"with its files in {first.folder}/{shared};" in told
            assert not second.socket_path.exists()
            assert (image.read_bytes(), contents(first.folder / shared)) == before
        assert "set_uuid" in ask(client, "Allocator.Describe")["parameters"]
        assert first.end(within_s=LATE_S) == 0


def test_a_copy_is_served_once_the_other_has_ended_or_with_directories_of_its_own() -> None:
    with DaemonProcess() as first:
        first.wait_until_ready()
        apart = DaemonProcess()
        shutil.copy(first.folder / "cache.img", apart.folder)
        with apart:
            assert apart.wait_until_ready().end(within_s=LATE_S) == 0
            assert first.end(signal.SIGKILL, LATE_S) == -signal.SIGKILL
            sharing(apart, first, "state", "run").start()
            assert apart.wait_until_ready().end(within_s=LATE_S) == 0
            assert list((first.folder / "state").glob("*.lock")) == []


@contextmanager
def other_name(kind: str, image: Path) -> Iterator[Path | str]:
    """Another way to an image."""
    path = image.with_name("other")
    match kind:
        case "hard link":
            path.hardlink_to(image)
            yield path
        case "loop device":
            with loop_device(image) as device:
                yield device
        case "copy":
            yield Path(shutil.copy(image, path))


@pytest.mark.parametrize("kind", ["hard link", pytest.param("loop device", marks=pytest.mark.root)])
def test_an_image_is_one_by_whatever_name(kind: str) -> None:
    with DaemonProcess() as first:
        image = first.wait_until_ready().folder / "cache.img"
        with other_name(kind, image) as path, on(DaemonProcess(), path) as second:
            assert second.end(None, LATE_S) == 1
            assert first.process is not None
            assert f"in use: process {first.process.pid} (bcached, user " in second.log_text()
            assert list((second.folder / "state").iterdir()) == []
        assert first.end(within_s=LATE_S) == 0


@pytest.mark.parametrize(
    ("kind", "says"),
    [("hard link", "this process has it open already"), ("copy", "both are member 0 of set ")],
)
def test_a_device_that_is_named_twice_is_refused(kind: str, says: str) -> None:
    daemon, image = with_image()
    before = image.read_bytes()
    with other_name(kind, image) as path, on(daemon, image, path):
        assert daemon.end(None, LATE_S) == 1
        (told,) = (line["message"] for line in daemon.logs if line["level"] == "critical")
        assert says in told
        assert image.read_bytes() == before
