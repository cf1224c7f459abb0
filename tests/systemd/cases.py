# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the service, tried one after the other on one booted machine."""

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import readme
from .container import OPERATOR, Container
from .partition import NAME as PARTITION

EXPOSURE_MAX = 0.5
SERVICE, SOCKET, METRICS = "bcached.service", "bcached.socket", "bcached-metrics.socket"
TARGET = "bcached.target"
DISK_SERVICE = "bcached@disk.service"
CONFIG = "/etc/bcached/bcached.toml"
START_S = 60.0  # on a machine that does much else
OLD_WRITERS = "writers of a previous run"  # a start waits ten seconds for them
OLD_BURST = 5  # restarts after which systemd gives up by default


@dataclass(frozen=True, slots=True)
class Case:
    """A claim and the way to try it."""

    claim: str
    run: Callable[[Container], None]
    needs_partition: bool = False


def install(machine: Container) -> None:
    """README's first block, word by word, by a user who may use sudo, brings all of it up."""
    for command in readme.blocks("As a service")[0]:
        machine.run(command, user=OPERATOR, within_s=600)
    for unit in (SERVICE, SOCKET, METRICS):
        assert machine.property(unit, "ActiveState") == "active"
    assert machine.property(SERVICE, "StatusText").startswith("serving set")
    assert machine.journal(SERVICE, "-p warning", "-q") == ""
    status = machine.run(f"cat /proc/{main_pid(machine)}/status")
    assert re.search(r"(?m)^Seccomp:\s2$", status), "behind its filter"
    assert re.search(r"(?m)^CapEff:\s0+$", status), "without a capability"


def clients(machine: Container) -> None:
    """A member reads back what it wrote and is no admin; who is no member is not let in."""
    data = bytes(range(256)) * 400
    machine.run("bcachectl write 0 0", user=OPERATOR, feed=data)
    assert fetched(machine) == data
    machine.run("bcachectl lookup 0 0 64k", user=OPERATOR)
    assert "needs role admin" in machine.run("bcachectl status", user=OPERATOR, check=False)
    assert "cache.img" in machine.run("sudo bcachectl status", user=OPERATOR)
    machine.run("useradd stranger")
    assert "Permission denied" in machine.run("bcachectl lookup 0 0 64k", user="stranger", check=False)
    assert "bcached_device_buckets" in machine.run("curl -s http://127.0.0.1:9712/metrics")


def reload(machine: Container) -> None:
    """A change is taken; a wrong file fails the reload, changes nothing and is told in the journal."""
    pid = main_pid(machine)
    machine.run(f"cp {CONFIG} /root/good.toml && sed -i 's/^connections = .*/connections = 77/' {CONFIG}")
    machine.run(f"systemctl reload {SERVICE}")
    machine.until(f"journalctl -u {SERVICE} | grep -q 'limits.connections'", 10)
    taken = machine.journal(SERVICE).count("configuration reloaded")
    for wrong in ("$a nonsense = 1", "$a [log", "s/^slice_ms = .*/slice_ms = 0/", "s/^level = .*/level = 3/"):
        machine.run(f"sed '{wrong}' /root/good.toml > {CONFIG}")
        assert machine.ends(f"systemctl reload {SERVICE}").returncode != 0, wrong
        assert machine.journal(SERVICE).count("configuration reloaded") == taken, wrong
        assert f"bcached: {CONFIG}" in machine.journal(SERVICE, "-p err", "-n 3"), wrong
        assert (main_pid(machine), machine.property(SERVICE, "ActiveState")) == (pid, "active")
    machine.run(f"cp /root/good.toml {CONFIG} && systemctl reload {SERVICE}")
    assert fetched(machine)


def killed(machine: Container) -> None:
    """kill -9: the service comes back by itself, with all that was committed."""
    before, pid = fetched(machine), main_pid(machine)
    machine.run(f"kill -9 {pid}")
    comes_back(machine, pid)
    assert fetched(machine) == before


def watched(machine: Container) -> None:
    """A daemon that hangs is found out by the watchdog, and replaced."""
    drop_in(machine, "[Service]\nWatchdogSec=3s\nTimeoutAbortSec=1s\n")
    machine.run(f"systemctl restart {SERVICE}")
    pid = main_pid(machine)
    time.sleep(4)
    assert main_pid(machine) == pid, "one that works is left alone"
    machine.run(f"kill -STOP {pid}")
    comes_back(machine, pid)
    assert "Watchdog timeout" in machine.journal(SERVICE)
    assert fetched(machine)
    drop_in(machine, "")


def patient(machine: Container) -> None:
    """What fails for a while, longer than any five starts, does not leave the service down."""
    pid = main_pid(machine)
    machine.run("mv /var/lib/bcached/cache.img /var/lib/bcached/away")
    machine.run(f"kill -9 {pid}")
    machine.until(f"test $(systemctl show --value -p NRestarts {SERVICE}) -gt {2 * OLD_BURST}", 180)
    assert machine.property(SOCKET, "ActiveState") == "active", "clients may wait"
    machine.run("mv /var/lib/bcached/away /var/lib/bcached/cache.img")
    comes_back(machine, pid)
    assert fetched(machine)


def locked(machine: Container) -> None:
    """A start that waits for a lock goes on waiting, beyond the time a start has, and is no failure."""
    drop_in(machine, "[Service]\nTimeoutStartSec=5s\n")
    machine.run(f"systemctl stop {SERVICE}")
    holding = subprocess.Popen(
        machine.inside("exec flock /var/lib/bcached/cache.img sleep 25"), stdin=subprocess.DEVNULL
    )
    with holding:
        machine.until("! flock -n /var/lib/bcached/cache.img true", 10)
        machine.run(f"systemctl start --no-block {SERVICE}")
        machine.until(f"systemctl show -p StatusText {SERVICE} | grep -q 'waiting for'", 15)
        pid = main_pid(machine)
        time.sleep(10)
        assert machine.property(SERVICE, "ActiveState") == "activating"
    machine.until(f"systemctl is-active {SERVICE}", START_S)
    assert main_pid(machine) == pid, "one start, which waited"
    drop_in(machine, "")


def wrong_configuration(machine: Container) -> None:
    """A start with a wrong file is not tried again, not even for clients; a good one starts all of it."""
    machine.run(f"echo nonsense = 1 >> {CONFIG}")
    assert machine.ends(f"systemctl restart {SERVICE}").returncode != 0
    for _ in range(20):
        machine.run("bcachectl lookup 0 0 64k", user=OPERATOR, check=False)
    assert machine.property(SERVICE, "ActiveState") == "failed"
    assert "unknown key" in machine.property(SERVICE, "StatusText")
    tried = machine.journal(SERVICE).count("unknown key, expected one of level")
    machine.run("sleep 5; bcachectl lookup 0 0 64k", user=OPERATOR, check=False)
    assert machine.journal(SERVICE).count("unknown key, expected one of level") == tried
    machine.run(f"cp /root/good.toml {CONFIG} && systemctl start {SERVICE}")
    assert machine.property(METRICS, "ActiveState") == "active"
    assert fetched(machine)


def stop(machine: Container) -> None:
    """A stop is clean and quick; a client starts the service again, unless all of it is stopped."""
    before = fetched(machine)
    began = time.monotonic()
    machine.run(f"systemctl stop {SERVICE}")
    assert time.monotonic() - began < 15, "the time that systemd gives it"
    assert machine.property(SERVICE, "Result") == "success"
    assert fetched(machine) == before
    machine.run(f"systemctl stop {TARGET}")
    for unit in (SERVICE, SOCKET, METRICS):
        assert machine.property(unit, "ActiveState") == "inactive"
    assert "is the daemon running?" in machine.run("bcachectl status", check=False)
    machine.run(f"systemctl start {SOCKET} && systemctl stop {TARGET}")
    assert machine.property(SOCKET, "ActiveState") == "inactive", "also if only a socket listened"
    machine.run(f"systemctl start {TARGET}")
    assert machine.property(METRICS, "ActiveState") == "active"
    assert fetched(machine) == before


def second_set(machine: Container) -> None:
    """README's second block: another set beside the first, each with its own data."""
    for command in readme.blocks("As a service")[1]:
        machine.run(command, user=OPERATOR)
    data = b"fast" * 1024
    fast = "bcachectl --socket /run/bcached-fast/io.bcached"
    machine.run(f"{fast} write 0 0", user=OPERATOR, feed=data)
    pid = main_pid(machine, "bcached@fast.service")
    machine.run("systemctl reload bcached@fast.service")
    machine.run(f"kill -9 {pid}")
    comes_back(machine, pid, "bcached@fast.service")
    assert machine.ends(f"{fast} read 0 0 4k", user=OPERATOR).stdout == data
    assert fetched(machine) != data
    machine.run("echo nonsense = 1 >> /etc/bcached/fast.toml")
    assert machine.ends("systemctl reload bcached@fast.service").returncode != 0
    metrics = "curl -s --unix-socket /run/bcached-fast/metrics http://localhost/metrics"
    own = machine.run(metrics)
    passed_on = machine.run("curl -s http://127.0.0.1:9712/sets/fast/metrics")
    uuids = [set(re.findall(r'uuid="([^"]+)"', text)) for text in (own, passed_on)]
    assert uuids[0] == uuids[1] != set(), "those of the named set, from the unnamed one's port"
    for unit in (SERVICE, "bcached@fast.service"):
        told = machine.run(f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
        print(f"       {told}", flush=True)
        rating = re.search(r": (\d+\.\d)", told)
        assert rating is not None, told
        assert float(rating[1]) <= EXPOSURE_MAX, told
    machine.run("systemctl stop bcached@fast.target")
    assert machine.property("bcached@fast.socket", "ActiveState") == "inactive"
    assert machine.property(SERVICE, "ActiveState") == "active"


def block_device(machine: Container) -> None:
    """docs/installing.md's commands make a set on a partition, with the rule and the drop-in as shipped."""
    properties = f"udevadm info -q property -n /dev/disk/by-partlabel/{PARTITION}"
    machine.run("mkdir -p /root/away && mv /etc/udev/rules.d/68-bcached.rules /root/away")
    reread = (
        f"udevadm control --reload && udevadm trigger --settle --name-match=disk/by-partlabel/{PARTITION}"
    )
    machine.run(reread)
    assert "ID_FS_TYPE=bcached" not in machine.run(properties), "or the rule would prove nothing"
    machine.run("mv /root/away/68-bcached.rules /etc/udev/rules.d")
    for command in readme.blocks("On a block device", readme.INSTALLING.read_text())[0]:
        machine.run(command, user=OPERATOR)
    assert "ID_FS_TYPE=bcached" in machine.run(properties)
    device = f"/dev/disk/by-partlabel/{PARTITION}"
    assert machine.run(f"stat -L -c '%G %a' {device}").split() == ["bcached", "660"]
    data, disk = b"disk" * 4096, "bcachectl --socket /run/bcached-disk/io.bcached"
    machine.run(f"{disk} write 0 0", user=OPERATOR, feed=data)
    machine.run("udevadm settle")  # the event of a node that was closed after writing
    assert machine.run(f"stat -L -c '%G %a' {device}").split() == ["bcached", "660"]
    pid = main_pid(machine, DISK_SERVICE)
    machine.run(f"kill -9 {pid}")
    comes_back(machine, pid, DISK_SERVICE)
    machine.run(f"systemctl restart {DISK_SERVICE}")
    assert machine.ends(f"{disk} read 0 0 16k", user=OPERATOR).stdout == data
    assert '"level":"warning"' not in machine.journal(DISK_SERVICE)
    assert OLD_WRITERS not in machine.journal(DISK_SERVICE)
    assert device in machine.run(f"{disk} status")
    assert "in use" in machine.run(f"bcachectl make {device}", check=False)
    machine.run(
        "systemctl disable --now bcached@disk.socket bcached-metrics@disk.socket bcached@disk.service"
    )
    machine.run(f"bcachectl check {device}")


def upgraded(machine: Container) -> None:
    """A second `make install` leaves a daemon that runs alone; a restart takes the new program."""
    pid, before = main_pid(machine), fetched(machine)
    machine.run("sed -i 's/^__version__ = .*/__version__ = \"9.9.9\"/' bcached/__init__.py", user=OPERATOR)
    machine.run("sudo make install", user=OPERATOR, within_s=600)
    assert machine.run("find /checkout -user root").strip() == "", "all in the checkout is the operator's"
    assert main_pid(machine) == pid
    assert fetched(machine) == before
    machine.run(f"systemctl daemon-reload && systemctl restart {SERVICE}")
    assert fetched(machine) == before
    assert 'version="9.9.9"' in machine.run("curl -s http://127.0.0.1:9712/metrics")
    assert OLD_WRITERS not in machine.journal(SERVICE), "no client wrote when it was stopped or killed"


def uninstalled(machine: Container) -> None:
    """docs/installing.md's last block removes the program and leaves configuration and images."""
    for command in readme.blocks("Removing it", readme.INSTALLING.read_text())[0]:
        machine.run(command, user=OPERATOR)
    assert machine.run("ls /opt").strip() == ""
    assert machine.run("systemctl list-unit-files 'bcached*' --no-legend", check=False).strip() == ""
    machine.run("test -e /var/lib/bcached/cache.img && test -e /etc/bcached/bcached.toml")


CASES = {
    "install": Case("README's commands bring it up", install),
    "clients": Case("members work, strangers do not get in", clients),
    "reload": Case("a reload with a wrong file fails and changes nothing", reload),
    "killed": Case("kill -9 loses nothing, and it comes back", killed),
    "watched": Case("a daemon that hangs is replaced", watched),
    "patient": Case("a failure that passes leaves nothing down", patient),
    "locked": Case("a start waits for a lock, however long", locked),
    "wrong-configuration": Case("a start with a wrong file is tried once", wrong_configuration),
    "stop": Case("stop is clean; that of the target lasts", stop),
    "second-set": Case("the template serves another set", second_set),
    "block-device": Case("a partition, with the udev rule and the drop-in", block_device, True),
    "upgraded": Case("a second install replaces a program that runs", upgraded),
    "uninstalled": Case("an uninstall leaves configuration and images", uninstalled),
}


def main_pid(machine: Container, unit: str = SERVICE) -> int:
    """The daemon's pid, in the container's own count."""
    return int(machine.property(unit, "MainPID"))


def comes_back(machine: Container, pid: int, unit: str = SERVICE) -> None:
    """Wait until another process serves in place of that one."""
    machine.until(
        f"systemctl is-active {unit} && test $(systemctl show --value -p MainPID {unit}) != {pid}", START_S
    )


def fetched(machine: Container) -> bytes:
    """What a client finds of what was written first; the socket holds it until the daemon is there."""
    done = machine.ends("bcachectl read 0 0 100k", user=OPERATOR)
    assert done.returncode == 0, done.stdout[-500:]
    return done.stdout


def drop_in(machine: Container, text: str) -> None:
    """Have a fragment of the operator's own, or none."""
    folder = "/run/systemd/system/bcached.service.d"
    machine.run(
        f"mkdir -p {folder} && cat > {folder}/test.conf && systemctl daemon-reload", feed=text.encode()
    )
