# SPDX-License-Identifier: GPL-2.0-only
"""qemu: the emulated machine, its disks, and one run of it.

The processor is emulated (TCG), so it needs no privilege and behaves alike on every host. The machine is
qemu's microvm: no firmware, no PCI, about two seconds to the first process. It has one processor: with
two, qemu at times goes on executing an instruction that the other one has patched since, and hangs.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dmesg
from .errors import HarnessFailed
from .packages import QEMU

MEMORY_MIB = 512
BEGIN_WITHIN_S = 60
DISKS_USUAL = 8
GRACE_S = 30  # beyond the guest's own limit


@dataclass(frozen=True, slots=True)
class Disk:
    """An image, or the URI of an export, as a disk of the guest; its writes are thrown away unless kept."""

    name: str
    path: Path | str
    keep_writes: bool = False
    logical_block_bytes: int = 512

    def arguments(self) -> list[str]:
        """What qemu is told of it. Unsafe caching is safe here: only the guest ever crashes."""
        drive = {
            "if": "none",
            "id": self.name,
            "file": self.path,
            "format": "raw",
            "cache": "unsafe",
            "discard": "unmap",
            "snapshot": "off" if self.keep_writes else "on",
        }
        device = {
            "drive": self.name,
            "serial": self.name,
            "logical_block_size": self.logical_block_bytes,
            "physical_block_size": self.logical_block_bytes,
        }
        return ["-drive", options(drive), "-device", "virtio-blk-device," + options(device)]


def qemu_command(
    kernel: Path, initramfs: Path, console: Path, disks: Sequence[Disk], limit_s: int
) -> list[str]:
    """The command line."""
    command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    machine = "microvm" if len(disks) <= DISKS_USUAL else "microvm,ioapic2=on"  # with 24 places for disks
    command += ["-machine", machine, "-accel", "tcg", "-smp", "1", "-m", str(MEMORY_MIB)]
    command += ["-cpu", "qemu64,+rdrand", "-kernel", str(kernel), "-initrd", str(initramfs)]
    command += ["-serial", f"file:{console}", "-append", kernel_parameters(limit_s)]
    for disk in disks:
        command += disk.arguments()
    return command


def options(values: Mapping[str, object]) -> str:
    """Options as qemu takes them; a comma inside a value is doubled."""
    return ",".join(f"{name}={str(value).replace(',', ',,')}" for name, value in values.items())


def kernel_parameters(limit_s: int) -> str:
    """The kernel's command line."""
    words = [
        "console=ttyS0",
        "loglevel=5",  # each line on the console costs time; the guest hands over the whole log
        "panic=-1",  # a panic ends qemu, as -no-reboot turns a reboot into an exit
        "oops=panic",
        "reboot=t",
        "mitigations=off",
        "random.trust_cpu=on",
        "printk.time=1",
        "log_buf_len=1M",
        "tsc=reliable",
        "no_timer_check",
        # A busy host spoils the guest's measurement of its clock, and this machine has no second one.
        f"tsc_early_khz={clock_khz()}",
        f"bcached_limit_s={limit_s}",
    ]
    return " ".join(words)


def clock_khz() -> int:
    """The rate of the host's time stamp counter, which the emulated one follows."""
    found = re.search(r"^cpu MHz\s*:\s*(\d+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1000 if found else 2_000_000


def run_qemu(command: Sequence[str], console: Path, limit_s: int) -> str | None:
    """Run to the end. A guest that hangs may be the image's doing; an error of qemu itself never is."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as qemu:
        try:
            _, said = communicate(qemu, console, limit_s)
        except subprocess.TimeoutExpired:
            return f"qemu had to be ended after {limit_s + GRACE_S} s"
        finally:
            qemu.kill()
    if qemu.returncode != 0:
        raise HarnessFailed(f"qemu: {said.strip()[-500:]}")
    return None


def communicate(qemu: "subprocess.Popen[str]", console: Path, limit_s: int) -> tuple[str, str]:
    """Wait for the end: a short while for the scenario to begin, then for as long as it may take."""
    try:
        return qemu.communicate(timeout=BEGIN_WITHIN_S)
    except subprocess.TimeoutExpired:
        if dmesg.BEGIN not in read_console(console):
            raise
        return qemu.communicate(timeout=limit_s + GRACE_S)


def read_console(path: Path) -> str:
    """What the guest printed on its serial line."""
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""
