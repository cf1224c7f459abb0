# SPDX-License-Identifier: GPL-2.0-only
"""The files for systemd and udev, judged by systemd's and udev's own tools."""

import grp
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from bcached.device.file_device import TRANSFER_THREADS
from bcached.format.sizes import MEMBERS_MAX
from bcached.service.command_line import DESCRIPTORS_BESIDE_CLIENTS
from bcached.service.settings.index_memory import index_bytes
from bcached.service.settings.sections import LimitsSection
from instruments.clients import seccomp
from instruments.clients.daemon_process import BIN, DaemonProcess

FILES = Path(__file__).parents[2] / "systemd"
PROGRAM_BYTES, BYTES_A_BUCKET = 80 << 20, 24  # as measured, and as the benchmark bounds it
UNITS = sorted([*FILES.glob("*.service"), *FILES.glob("*.socket"), *FILES.glob("*.target")])


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def directives(unit: str, section: str) -> list[tuple[str, str]]:
    """Every assignment of a section in its order; a directive may come more than once."""
    text = (FILES / unit).read_text().split(f"[{section}]")[1].split("\n[")[0]
    return re.findall(r"(?m)^(\w+)=(.*)$", text)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as systemd would find them, templates with a name, and a program that exists."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/bcached/bin/bcached", "/bin/true")
        (tmp_path / unit.name.replace("@", "@fast")).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_in_the_units(installed: Path) -> None:
    units = [str(path) for path in sorted(installed.iterdir())]
    result = subprocess.run(
        [tool("systemd-analyze"), "verify", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True,
        text=True,
    )
    ours = [line for line in result.stderr.splitlines() if "bcached" in line]
    assert (result.returncode, ours) == (0, [])


def test_a_wrong_directive_would_be_found(installed: Path) -> None:
    unit = installed / "bcached.service"
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHose=yes"))
    result = subprocess.run(
        [tool("systemd-analyze"), "verify", str(unit)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True,
        text=True,
    )
    assert "ProtectHose" in result.stderr


@pytest.mark.parametrize("unit", ["bcached.service", "bcached@.service"])
def test_the_sandbox_scores_at_most_half_a_point(unit: str) -> None:
    # --threshold takes tenths: 5 is an exposure of 0.5.
    analyze = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=5", str(FILES / unit)]
    result = subprocess.run(analyze, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-200:]


def test_a_weaker_sandbox_would_be_noticed(tmp_path: Path) -> None:
    unit = tmp_path / "bcached.service"
    unit.write_text((FILES / "bcached.service").read_text().replace("PrivateNetwork=yes\n", ""))
    analyze = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=5", str(unit)]
    assert subprocess.run(analyze, capture_output=True).returncode == 1


@pytest.mark.parametrize("unit", ["bcached.service", "bcached@.service"])
def test_the_service_speaks_the_daemons_protocol(unit: str) -> None:
    service = dict(directives(unit, "Service"))
    assert service["Type"] == "notify"
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    reloading = [value for name, value in directives(unit, "Service") if name == "ExecReload"]
    program, _, of_daemon = service["ExecStart"].partition(" ")
    assert reloading[0] == f"{program} --check-config --quiet {of_daemon}", (
        "a wrong file must fail the reload"
    )
    assert int(service["WatchdogSec"].removesuffix("s")) >= 10
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 5
    assert service["RuntimeDirectoryPreserve"] == "yes", "the socket's path must outlive the daemon"
    assert "PrivateUsers" not in service, "peers are known by their uid"
    assert "ProcSubset" not in service, "it takes process_* away"


def test_a_failure_that_passes_never_uses_up_the_starts() -> None:
    unit, service = (
        dict(directives("bcached.service", "Unit")),
        dict(directives("bcached.service", "Service")),
    )
    starts_by_restart = int(unit["StartLimitIntervalSec"]) / int(service["RestartSec"].removesuffix("s"))
    assert service["Restart"] == "on-failure"
    assert starts_by_restart < int(unit["StartLimitBurst"])
    assert service["RestartPreventExitStatus"] == "2", "a wrong configuration is not tried again"


def test_the_bounds_leave_room_for_what_the_configuration_allows() -> None:
    service = dict(directives("bcached.service", "Service"))
    buffers = tomllib.loads((FILES.parent / "config" / "bcached.toml").read_text())["limits"]["buffer_bytes"]
    most = LimitsSection.model_json_schema()["properties"]["connections"]["maximum"]
    assert int(service["LimitNOFILE"]) >= 2 * most + DESCRIPTORS_BESIDE_CLIENTS
    assert int(service["TasksMax"]) > MEMBERS_MAX * (TRANSFER_THREADS + 2) + 16
    tables = BYTES_A_BUCKET * (4 << 40) // (512 << 10)  # of four tebibytes
    limit = int(service["MemoryMax"].removesuffix("G")) << 30
    assert limit > 1.5 * (PROGRAM_BYTES + index_bytes(4 << 40, limit, buffers) + buffers + tables)


def test_sockets_bear_the_names_the_daemon_looks_for() -> None:
    for unit, name in (
        ("bcached.socket", "varlink"),
        ("bcached@.socket", "varlink"),
        ("bcached-metrics.socket", "metrics"),
        ("bcached-metrics@.socket", "metrics"),
    ):
        assert dict(directives(unit, "Socket"))["FileDescriptorName"] == name


def test_the_template_differs_from_the_service_in_its_places_only() -> None:
    own = (("/%i.toml", "/bcached.toml"), ("bcached/%i", "bcached"), ("bcached-%i", "bcached"), ("@%i", ""))
    template = []
    for name, value in directives("bcached@.service", "Service"):
        for of_template, of_service in own:
            value = value.replace(of_template, of_service)  # noqa: PLW2901
        template.append((name, value))
    assert template == directives("bcached.service", "Service")


def test_the_users_file_makes_the_user_the_units_name(tmp_path: Path) -> None:
    result = subprocess.run(
        [tool("systemd-sysusers"), "--dry-run", str(FILES / "sysusers.d" / "bcached.conf")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    service = dict(directives("bcached.service", "Service"))
    assert (service["User"], service["Group"]) == ("bcached", "bcached")
    assert "bcached" in (FILES / "sysusers.d" / "bcached.conf").read_text().split()


def test_the_drop_in_for_block_devices_is_a_unit_fragment() -> None:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FILES / "block-device.conf")
    assert parser["Service"]["PrivateDevices"] == "no"
    assert parser["Service"]["DeviceAllow"].endswith(" rw")


@pytest.fixture
def bcache_device(tmp_path: Path) -> Iterator[str]:
    """A loop device that carries bcache's magic number."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices")
    udevadm, losetup, make = tool("udevadm"), tool("losetup"), tool("make-bcache")
    if not Path("/lib/udev/rules.d/69-bcache.rules").exists():
        pytest.skip("bcache-tools' udev rules are not installed")
    image = tmp_path / "cache.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([make, "-C", str(image)], check=True, capture_output=True)
    attached = subprocess.run([losetup, "-f", "--show", str(image)], capture_output=True, text=True)
    if attached.returncode != 0:
        pytest.skip("no loop devices here")
    device = attached.stdout.strip()
    yield device
    subprocess.run([losetup, "-d", device], check=True)
    assert udevadm


def what_udev_would_run(device: str) -> str:
    command = [tool("udevadm"), "test", "-a", "add", f"/sys/class/block/{Path(device).name}"]
    result = subprocess.run(command, capture_output=True, text=True)
    return "\n".join(line for line in result.stdout.splitlines() if re.match(r"run:|\w+=", line))


@pytest.mark.root
def test_the_kernel_is_kept_from_grabbing_our_devices(bcache_device: str) -> None:
    assert "bcache-register" in what_udev_would_run(bcache_device), "or this test proves nothing"
    rules = Path("/run/udev/rules.d")
    rules.mkdir(exist_ok=True)
    ours = rules / "68-bcached-under-test.rules"
    text = (FILES / "68-bcached.rules").read_text()
    told = 'ENV{ID_PART_ENTRY_NAME}=="bcached|bcached-*"'
    assert told in text
    ours.write_text(text.replace(told, f'KERNEL=="{Path(bcache_device).name}"'))
    try:
        would = what_udev_would_run(bcache_device)
    finally:
        ours.unlink()
    assert "bcache-register" not in would
    assert "ID_FS_TYPE=bcached" in would
    assert "SYSTEMD_READY=0" not in would, "units must be able to wait for the device"


# The system calls: what the unit forbids, the daemon must be able to live without.

# OpenBLAS, as numpy loads it, would like to say where its memory lies, and does without.
DONE_WITHOUT = {"mbind"}


def allowed() -> set[str]:
    if missing := seccomp.why_not():
        pytest.skip(missing)
    lines = directives("bcached.service", "Service")
    return seccomp.allowed_by(value for name, value in lines if name == "SystemCallFilter")


def whole_life(daemon: DaemonProcess) -> None:
    """Whatever the daemon does but for a reason of the device's: data, discards, a reload, a lost client."""
    daemon.wait_until_ready()
    inode = daemon.ask("Admin.CreateVolume", label="all")["parameters"]["inode"]
    holding = [
        str(BIN / "bcachectl"),
        "--socket",
        str(daemon.socket_path),
        "allocate",
        "--hold",
        str(inode),
        "0",
        "64k",
    ]
    with subprocess.Popen(holding, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline(), "it holds something"
        client.kill()
    daemon.ask("Admin.SetDiscard", discard=True)
    for verb in (["write", str(inode), "0"], ["read", str(inode), "0", "1M"]):
        done = subprocess.run(
            [BIN / "bcachectl", "--socket", daemon.socket_path, *verb],
            input=bytes(1 << 20),
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
    daemon.ask("Allocator.Invalidate", inode=inode, offset=0, sectors=2048)
    assert daemon.ask("Admin.CollectGarbage", wait=True) == {"parameters": {}}
    assert daemon.ask("Admin.WritePriorities") == {"parameters": {}}
    daemon.send(signal.SIGHUP)
    daemon.wait_until_told("RELOADING", "1")
    daemon.wait_until_told("READY", "1")
    assert daemon.end() == 0
    assert [line for line in daemon.logs if line["level"] not in ("debug", "info")] == []


def behind_filter(calls: set[str], folder: Path) -> DaemonProcess:
    """A daemon that dies of a call that is not among these; its files are for its own group, as shipped."""
    launcher = seccomp.behind(calls | DONE_WITHOUT, folder, seccomp.KILL_PROCESS)
    daemon = DaemonProcess({"COVERAGE_PROCESS_CONFIG": "", "WATCHDOG_USEC": "1000000"}, launcher=(*launcher,))
    group = grp.getgrgid(os.getegid()).gr_name
    daemon.config.write_text(daemon.config.read_text().replace('group = ""', f'group = "{group}"'))
    return daemon


def test_the_daemon_makes_no_call_that_its_unit_forbids(tmp_path: Path) -> None:
    # Nor one that only another group would need, which a sandbox of the operator's own may forbid.
    with behind_filter(allowed() - seccomp.expanded(["@chown"]), tmp_path) as daemon:
        whole_life(daemon)


def test_a_call_that_the_filter_forbids_would_be_noticed(tmp_path: Path) -> None:
    with (
        behind_filter(allowed() - {"pidfd_open"}, tmp_path) as daemon,
        pytest.raises((OSError, AssertionError)),
    ):
        whole_life(daemon)
    assert daemon.process is not None
    assert daemon.process.returncode == -signal.SIGSYS


def test_what_the_configuration_says_of_another_group_lets_the_daemon_give_it_files() -> None:
    assert "SystemCallFilter=fchown" in (FILES.parent / "config" / "bcached.toml").read_text()
    lines = [value for name, value in directives("bcached.service", "Service") if name == "SystemCallFilter"]
    assert allowed() & seccomp.expanded(["@chown"]) == set()
    assert seccomp.allowed_by([*lines, "fchown"]) & seccomp.expanded(["@chown"]) == {"fchown"}
