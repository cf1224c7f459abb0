"""One boot of Debian's kernel under qemu: disks and a scenario in, the kernel's words and facts out.

The processor is emulated (TCG), so it needs no privilege and behaves alike on every host. The machine is
qemu's microvm: no firmware, no PCI, about two seconds to the first process. It has one processor: with
two, qemu at times goes on executing an instruction that the other one has patched since, and hangs.
"""

import hashlib
import io
import re
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import dmesg
from .errors import HarnessFailed
from .initramfs import File, archive
from .modules import load_order
from .packages import QEMU, cache_folder, ensure_tools, locked, unpacked
from .vmlinux import unpack_vmlinux

MEMORY_MIB = 512
BEGIN_WITHIN_S = 60
GRACE_S = 30  # beyond the guest's own limit
BOOTS_MAX = 2
RESULTS_BYTES = 16 << 20
INIT = Path(__file__).parent / "guest" / "init"


@dataclass(frozen=True, slots=True)
class Disk:
    """An image as a disk of the guest; its writes are thrown away unless kept."""

    name: str
    path: Path
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


@dataclass(frozen=True, slots=True)
class Handover:
    """What a boot left behind; files are those the guest put into /results."""

    files: Mapping[str, bytes]
    console: str
    wall_s: float
    trouble: str | None = None  # why nothing, or not all, was handed over
    facts: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A file as text, empty if the guest wrote none."""
        return self.files.get(name, b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel and the part of its initramfs that is the same at each boot."""

    kernel: Path
    initramfs: Path

    @classmethod
    def prepare(cls) -> "Machine":
        """Download, unpack and build what is not in the cache folder yet."""
        ensure_tools()
        folder = cache_folder()
        with locked(folder):
            root = unpacked(folder)
            kernel = folder / "vmlinux"
            if not kernel.exists():
                publish(kernel, unpack_vmlinux(next(root.glob("boot/vmlinuz-*")).read_bytes()))
            initramfs = folder / f"initramfs-{fingerprint()}"
            if not initramfs.exists():
                publish(initramfs, base_archive(root))
        return cls(kernel, initramfs)

    def boot(
        self,
        scenario: str,
        disks: Sequence[Disk],
        files: Mapping[str, bytes] | None = None,
        limit_s: int = 120,
    ) -> Handover:
        """Run the scenario in a guest with these disks; files are put beside it."""
        extra = {path: File(data) for path, data in (files or {}).items()}
        own = archive({"scenario": File(scenario.encode()), **extra})
        for _ in range(BOOTS_MAX):
            handover = self.boot_once(own, disks, limit_s)
            if dmesg.BEGIN in handover.console:
                return handover
            print("the guest hung before the scenario began; once more", flush=True)
        raise HarnessFailed(f"the guest does not start:\n{handover.console[-2000:]}")

    def boot_once(self, own: bytes, disks: Sequence[Disk], limit_s: int) -> Handover:
        """One boot with this archive behind the common one."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bcached-kernel-") as name:
            folder = Path(name)
            (folder / "initramfs").write_bytes(self.initramfs.read_bytes() + own)
            results = folder / "results"
            with open(results, "wb") as file:
                file.truncate(RESULTS_BYTES)
            command = self.command(folder, [Disk("results", results, keep_writes=True), *disks], limit_s)
            trouble = run_qemu(command, folder / "console", limit_s)
            console = read_console(folder / "console")
            handed = read_results(results)
        if trouble is None and "dmesg" not in handed:
            trouble = "the guest died before it handed its results over"
        facts = parse_facts(handed.get("facts", b"").decode(errors="replace"))
        return Handover(handed, console, time.monotonic() - started, trouble, facts)

    def command(self, folder: Path, disks: Sequence[Disk], limit_s: int) -> list[str]:
        """The qemu command line."""
        command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-machine", "microvm", "-accel", "tcg", "-smp", "1", "-m", str(MEMORY_MIB)]
        command += ["-cpu", "qemu64,+rdrand"]
        command += ["-kernel", str(self.kernel), "-initrd", str(folder / "initramfs")]
        command += ["-serial", f"file:{folder / 'console'}", "-append", kernel_parameters(limit_s)]
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


def base_archive(root: Path) -> bytes:
    """The archive with init, busybox and the modules, named in the order of their loading."""
    files = {
        "init": File(INIT.read_bytes(), 0o755),
        "bin/busybox": File((root / "bin/busybox").read_bytes(), 0o755),
    }
    for place, (name, data) in enumerate(load_order(root).items()):
        files[f"modules/{place:02}-{name}.ko"] = File(data)
    if not any(path.endswith("-bcache.ko") for path in files):
        raise HarnessFailed("the kernel package holds no bcache.ko")
    return archive(files)


def fingerprint() -> str:
    """Changes with the sources that the archive is built from."""
    here = Path(__file__).parent
    sources = [INIT, here / "machine.py", here / "modules.py", here / "initramfs.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def publish(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    unfinished.rename(path)


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


def read_results(path: Path) -> dict[str, bytes]:
    """The files the guest put on its results disk; none if it never got there."""
    with open(path, "rb") as file:
        data = file.read()
    handed: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for item in tar:
                content = tar.extractfile(item)
                if content is not None:
                    handed[item.name.removeprefix("./")] = content.read()
    except tarfile.TarError:
        return {}
    return handed


def parse_facts(text: str) -> dict[str, str]:
    """name=value lines."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
