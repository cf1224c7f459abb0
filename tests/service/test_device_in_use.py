"""A daemon whose device, or whose set, another process has: when it waits, when it goes on, when it ends."""

import os
import signal
from pathlib import Path

import pytest

from instruments.daemon_process import DaemonProcess
from instruments.stranger import stranger

LATE_S = 60.0  # for what happens at once where the machine is not busy

pytestmark = pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="/proc/locks cannot be read")


def stopped(daemon: DaemonProcess) -> Path:
    """Its image, when it has been stopped again."""
    assert daemon.wait_until_ready().end(within_s=LATE_S) == 0
    return daemon.folder / "cache.img"


def warnings(daemon: DaemonProcess) -> list[str]:
    return [line["message"] for line in daemon.logs if line["level"] == "warning"]


@pytest.mark.parametrize("how", ["LOCK_SH", "LOCK_EX"])
def test_a_lock_that_will_pass_is_waited_for_and_its_holder_named(how: str) -> None:
    with DaemonProcess() as daemon:
        image = stopped(daemon)
        with stranger(image, how, user=os.geteuid()) as holder:
            daemon.start()
            waiting = daemon.wait_until_told("STATUS", None, LATE_S)
            while not waiting["STATUS"].startswith("waiting"):
                waiting = daemon.wait_until_told("STATUS", None, LATE_S)
            named = f"waiting for {image}: in use: process {holder.pid} (stray, user "
            assert waiting["STATUS"].startswith(named)
            assert any("EXTEND_TIMEOUT_USEC" in message for message in daemon.told)
            assert daemon.process is not None
            assert daemon.process.poll() is None
        assert daemon.wait_until_ready().end(within_s=LATE_S) == 0
        assert len(warnings(daemon)) == 1
        assert warnings(daemon)[0].startswith(named)


def test_a_daemon_that_waits_for_its_device_can_be_stopped() -> None:
    with DaemonProcess() as daemon:
        image = stopped(daemon)
        before = image.read_bytes()
        with stranger(image, "LOCK_SH", user=os.geteuid()):
            daemon.start()
            while "waiting" not in daemon.wait_until_told("STATUS", None, LATE_S)["STATUS"]:
                pass
            assert daemon.end(signal.SIGTERM, LATE_S) == 0
        assert image.read_bytes() == before


@pytest.mark.root
@pytest.mark.parametrize("how", ["LOCK_SH", "LOCK_EX"])
def test_no_client_keeps_the_daemon_from_starting_by_a_lock_on_the_image(how: str) -> None:
    with DaemonProcess() as daemon:
        image = stopped(daemon)
        with stranger(image, how, flags=os.O_RDWR) as client:
            daemon.start()
            daemon.wait_until_ready()
            with DaemonProcess() as second:
                second.end(signal.SIGKILL)
                text = second.config.read_text()
                second.config.write_text(text.replace(f"{second.folder}/cache.img", str(image)))
                second.start()
                assert second.end(None, LATE_S) == 1, "it is the first daemon's all the same"
                assert daemon.process is not None
                assert f"process {daemon.process.pid} (bcached, user root)" in second.log_text()
            assert daemon.end(within_s=LATE_S) == 0
        (told,) = warnings(daemon)
        assert told == f"{image}: ignoring the lock of process {client.pid} (stray, user nobody)"
