# SPDX-License-Identifier: GPL-2.0-only
"""Packages by name, by way of the machine's apt, out of an archive laid out here as a mirror has it."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from .apt import Apt
from .errors import CannotRun
from .packages import kernel_package
from .process import run

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="needs apt-get and dpkg-deb"
)
KERNELS = {
    "bookworm": {"linux-image-amd64": "linux-image-6.1.0-56-amd64"},
    "bookworm-security": {"linux-image-6.12-amd64": "linux-image-6.12.117+deb12-amd64"},
    "trixie": {"linux-image-amd64": "linux-image-6.12.48+deb13-amd64"},
    "trixie-security": {},
}


def built(archive: Path, suite: str, name: str, depends: str = "") -> str:
    """Build an empty package; returns its paragraph of the package list."""
    tree, pool = archive / "tree" / suite / name, archive / "pool" / suite
    (tree / "DEBIAN").mkdir(parents=True)
    pool.mkdir(parents=True, exist_ok=True)
    control = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@example.org>\n"
    control += f"Depends: {depends}\n" if depends else ""
    (tree / "DEBIAN/control").write_text(f"{control}Description: empty\n")
    package = pool / f"{name}_1_amd64.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(package)], check=True, capture_output=True)
    data = package.read_bytes()
    place = f"Filename: pool/{suite}/{package.name}\nSize: {len(data)}\n"
    return f"{control}{place}SHA256: {hashlib.sha256(data).hexdigest()}\nDescription: empty\n\n"


def lay_out(archive: Path, suites: dict[str, dict[str, str]]) -> None:
    """An archive of these suites: names of packages, and of the one that each depends on."""
    for suite, packages in suites.items():
        folder = archive / "dists" / suite / "main/binary-amd64"
        folder.mkdir(parents=True)
        paragraphs = [
            built(archive, suite, name, kernel) + built(archive, suite, kernel)
            for name, kernel in packages.items()
        ]
        (folder / "Packages").write_text("".join(paragraphs))
        digest = hashlib.sha256((folder / "Packages").read_bytes()).hexdigest()
        size = (folder / "Packages").stat().st_size
        label = "Debian-Security" if suite.endswith("-security") else "Debian"
        (archive / "dists" / suite / "Release").write_text(
            f"Origin: Debian\nLabel: {label}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            f"Date: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n {digest} {size} main/binary-amd64/Packages\n"
        )


def machine_of(tmp_path: Path, *suites: str) -> Apt:
    """apt of a machine that fetches these suites from the archive; its lists are fetched."""
    place = tmp_path / "machine"
    (place / "lists/partial").mkdir(parents=True)
    (place / "status").touch()
    lines = [f"deb file:{tmp_path}/archive {suite} main\n" for suite in suites]
    (place / "sources.list").write_text("".join(lines))
    settings = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": place / "lists",
        "Dir::State::status": place / "status",
        "Dir::Cache": place,
        "APT::Architecture": "amd64",
        "Acquire::AllowInsecureRepositories": "true",  # it is not signed
        "APT::Get::AllowUnauthenticated": "true",
    }
    here = Apt(tuple(f"-o{name}={value}" for name, value in settings.items()))
    run(["apt-get", *here.options, "update"])
    return here


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_machines_own_release_may_have_several_series(tmp_path: Path) -> None:
    lay_out(tmp_path / "archive", KERNELS)
    here = machine_of(tmp_path, "bookworm", "bookworm-security")
    assert kernel_package(here, "6.1") == "linux-image-6.1.0-56-amd64"
    assert kernel_package(here, "6.12") == "linux-image-6.12.117+deb12-amd64"
    assert kernel_package(here, "6.2") == ""
    assert here.depends("linux-image-6X12-amd64") == []


def test_another_release_is_asked_without_a_change_of_the_machines_lists(tmp_path: Path) -> None:
    lay_out(tmp_path / "archive", KERNELS)
    here = machine_of(tmp_path, "bookworm", "bookworm-security")
    before = contents(tmp_path / "machine")
    there = here.of_release("trixie", tmp_path / "private")
    assert kernel_package(there, "6.12") == "linux-image-6.12.48+deb13-amd64"
    assert kernel_package(there, "6.1") == ""
    (fetched,) = there.download(["linux-image-6.12.48+deb13-amd64"], tmp_path / "debs")
    assert fetched.name.startswith("linux-image-6.12.48")
    lists = {path: data for path, data in contents(tmp_path / "machine").items() if path.suffix != ".bin"}
    assert lists == {path: data for path, data in before.items() if path.suffix != ".bin"}


def test_a_machine_without_debians_lists_is_told(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    here = machine_of(tmp_path)
    with pytest.raises(CannotRun, match="run apt-get update first, on Debian"):
        here.of_release("trixie", tmp_path / "private")


def test_a_package_that_is_not_to_be_had_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path / "archive", KERNELS)
    with pytest.raises(CannotRun, match=r"linux-source-6\.1.*apt-get update"):
        machine_of(tmp_path, "bookworm").download(["linux-source-6.1"], tmp_path / "debs")
