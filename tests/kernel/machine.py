# SPDX-License-Identifier: GPL-2.0-only
"""One boot of Debian's kernel: disks and a scenario in, the kernel's words and facts out."""

import hashlib
import io
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import dmesg
from .debug_build import debug_module
from .errors import HarnessFailed
from .initramfs import File, archive
from .modules import load_order
from .packages import TOOLS, cache_folder, locked, placed, unpacked
from .process import need
from .qemu import Disk, qemu_command, read_console, run_qemu
from .vmlinux import unpack_vmlinux

BOOTS_MAX = 2
RESULTS_BYTES = 64 << 20
INIT = Path(__file__).parent / "guest" / "init"


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

    series: str
    kernel: Path
    initramfs: Path

    @classmethod
    def prepare(cls, series: str, *, debug: bool = False) -> "Machine":
        """Download, unpack and build what is not in the series' cache folder yet.

        debug: with a bcache.ko that checks itself and what it is given.
        """
        need(TOOLS)
        folder = cache_folder(series)
        with locked(folder):
            root = unpacked(folder, series)
            kernel = folder / "vmlinux"
            if not kernel.exists():
                publish(kernel, unpack_vmlinux(next(root.glob("boot/vmlinuz-*")).read_bytes()))
            module = debug_module(root, folder, series) if debug else None
            initramfs = folder / f"initramfs-{'debug-' if debug else ''}{fingerprint()}"
            if not initramfs.exists():
                publish(initramfs, base_archive(root, module))
        return cls(series, kernel, initramfs)

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
            all_disks = [Disk("results", results, keep_writes=True), *disks]
            command = qemu_command(self.kernel, folder / "initramfs", folder / "console", all_disks, limit_s)
            trouble = run_qemu(command, folder / "console", limit_s)
            console = read_console(folder / "console")
            handed = read_results(results)
        if trouble is None and "dmesg" not in handed:
            trouble = "the guest died before it handed its results over"
        facts = parse_facts(handed.get("facts", b"").decode(errors="replace"))
        return Handover(handed, console, time.monotonic() - started, trouble, facts)


def base_archive(root: Path, debug_bcache: Path | None = None) -> bytes:
    """The archive with init, busybox and the modules, named in the order of their loading.

    A file "debug" tells init to turn on what bcache can check.
    """
    files = {
        "init": File(INIT.read_bytes(), 0o755),
        "bin/busybox": File(placed(root, "bin/busybox").read_bytes(), 0o755),
    }
    modules = load_order(root)
    if debug_bcache is not None:
        modules["bcache"] = debug_bcache.read_bytes()
        files["debug"] = File(b"")
    for place, (name, data) in enumerate(modules.items()):
        files[f"modules/{place:02}-{name}.ko"] = File(data)
    if not any(path.endswith("-bcache.ko") for path in files):
        raise HarnessFailed("the kernel package holds no bcache.ko")
    return archive(files)


def fingerprint() -> str:
    """Changes with the sources that the archive is built from."""
    here = Path(__file__).parent
    sources = [INIT, *(here / name for name in ("machine.py", "modules.py", "packed.py", "initramfs.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def publish(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    unfinished.rename(path)


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
