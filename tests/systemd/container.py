# SPDX-License-Identifier: GPL-2.0-only
"""A copy of the root, booted by systemd-nspawn without a network; commands run in it through nsenter."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from kernel.errors import HarnessFailed

from .partition import Partition

BOOT_S, COMMAND_S, POWEROFF_S = 60.0, 120.0, 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPERATOR = "keeper"
NOT_COPIED = shutil.ignore_patterns(".*", "var", "build", "dist", "*.egg-info", "__pycache__")


class Container:
    """Booted for as long as the block runs; its folder is the caller's to remove.

    With a partition, udev runs in it, too, and knows that disk.
    """

    def __init__(
        self, root: Path, wheels: Path, checkout: Path, folder: Path, partition: Partition | None = None
    ) -> None:
        self.root = folder / "root"
        self._log = folder / "nspawn.log"
        subprocess.run(["cp", "-a", "--reflink=auto", root, self.root], check=True)
        shutil.copytree(wheels, self.root / "wheels")
        (self.root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        shutil.copytree(checkout, self.root / "checkout", ignore=NOT_COPIED)
        (self.root / "etc/sudoers.d").mkdir(exist_ok=True)
        (self.root / "etc/sudoers.d/keeper").write_text(f"{OPERATOR} ALL=(ALL) NOPASSWD: ALL\n")
        (self.root / "etc/hostname").write_text("bcached-test\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost bcached-test\n")
        self.partition = partition
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        name = f"bcached-test-{os.getpid()}"
        command = ["systemd-nspawn", "-q", "--boot", "--private-network", "--register=no", "-M", name]
        if not Path("/run/systemd/system").is_dir():
            command.append("--keep-unit")  # no service manager here that could give it a unit
        # Where /sys can be written to, systemd-udevd starts.
        environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"} if self.partition else None
        masked = self.root / "etc/systemd/system/systemd-udev-trigger.service"
        masked.symlink_to("/dev/null")  # it would ask for events of all of this machine's devices
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*command, "-D", self.root], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        try:
            self._wait_for_boot()
            self._plug_in()
            self.run(f"useradd -m {OPERATOR} && chown -R {OPERATOR}: /checkout")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nspawn is not None
        try:
            self.run("systemctl poweroff", check=False)
            self._nspawn.wait(POWEROFF_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def run(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = True,
        feed: bytes = b"",
        within_s: float = COMMAND_S,
    ) -> str:
        """What a command prints, stderr included; raises AssertionError unless it succeeds."""
        done = self.ends(command, user=user, feed=feed, within_s=within_s)
        said = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{command}: exit status {done.returncode}: {said}"
        return said

    def ends(
        self, command: str, *, user: str = "root", feed: bytes = b"", within_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[bytes]:
        """How a command ends, run by a shell of that user in the checkout."""
        return subprocess.run(
            self.inside(command, user),
            input=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=within_s,
        )

    def inside(self, command: str, user: str = "root") -> list[str]:
        """The command as one of this machine's."""
        begin = [
            "nsenter",
            "-t",
            str(self._leader),
            "-a",
            "env",
            "-i",
            f"PATH={PATH}",
            "SUDO_EDITOR=true",
            f"USER={user}",
        ]
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        return [*begin, *become, "bash", "-c", f"cd /checkout && {command}"]

    def until(self, command: str, within_s: float) -> None:
        """Wait until a command succeeds; raises AssertionError with what it said last."""
        deadline = time.monotonic() + within_s
        while (done := self.ends(command)).returncode != 0:
            said = done.stdout.decode(errors="replace")[-500:]
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {command}: {said}"
            time.sleep(0.2)

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit."""
        return self.run(f"systemctl show --value -p {name} {unit}").strip()

    def journal(self, unit: str, *options: str) -> str:
        """The unit's log, by it and about it."""
        return self.run(f"journalctl --no-pager -o short-precise -u '{unit}' {' '.join(options)}")

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + BOOT_S
        assert self._nspawn is not None
        while time.monotonic() < deadline and self._nspawn.poll() is None:
            time.sleep(0.2)
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            if not children:
                continue
            self._leader = int(children[0])
            done = self.ends("systemctl is-system-running")
            if done.stdout.strip() in (b"running", b"degraded"):
                return
        raise HarnessFailed(f"systemd did not come up: {self._log.read_text(errors='replace')[-500:]}")

    def _plug_in(self) -> None:
        """Make the nodes, which the kernel makes outside of containers, and have the events of a new disk."""
        nodes = {} if self.partition is None else self.partition.nodes
        for name, number in nodes.items():
            self.run(f"mknod -m 0600 /dev/{name} b {number}")
            self.run(f"udevadm trigger --settle --action=add /sys/class/block/{name}")

    def _kill(self) -> None:
        assert self._nspawn is not None
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(5)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
