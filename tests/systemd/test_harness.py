# SPDX-License-Identifier: GPL-2.0-only
"""What the harness reads and decides, without a container: README's commands, the mirror, what is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kernel.errors import CannotRun

from . import partition, readme, root

TARGETS = """\
http://security.example/debian-security/ bookworm-security main
http://mirror.example/debian/ bookworm-updates main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian/ bookworm main
"""


def test_the_commands_are_those_of_readme_without_their_comments() -> None:
    first, second = "```\nmake a   # why\n\ntee b < c\n```\n", "```\nlast\n```\n"
    text = f"# x\n\n## As a service\n\n{first}and\n{second}\n## Next\n```\nno\n```\n"
    assert readme.blocks("As a service", text) == [["make a", "tee b < c"], ["last"]]


def test_readme_says_how_to_install_start_and_add_a_set() -> None:
    first, second = readme.blocks("As a service")
    assert first[0] == "sudo make install"
    assert any(line.startswith("sudo systemctl enable --now") for line in first)
    assert any("bcached@fast.service" in line for line in second)


def test_the_block_of_a_block_device_names_the_partition_that_is_made_for_it() -> None:
    (block,) = readme.blocks("On a block device", readme.INSTALLING.read_text())
    assert any(partition.NAME in line for line in block)
    drop_in = readme.README.parent / "systemd/block-device.conf"
    assert f"DeviceAllow=/dev/disk/by-partlabel/{partition.NAME} rw" in drop_in.read_text().splitlines()


def test_a_disk_has_a_named_partition(tmp_path: Path) -> None:
    blkid = shutil.which("blkid")
    if blkid is None:
        pytest.skip("blkid is not installed")
    disk = tmp_path / "disk.img"
    partition.write_disk(disk, "bcached-one")
    said = subprocess.run([blkid, "-p", disk], capture_output=True, text=True)
    assert 'PTTYPE="gpt"' in said.stdout, said.stderr
    assert "bcached-one".encode("utf-16-le") in disk.read_bytes()[: 1 << 20]


def test_without_loop_devices_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotRun, match="losetup is not installed"), partition.Partition(tmp_path):
        pass


def test_a_missing_section_is_told() -> None:
    with pytest.raises(AssertionError, match="there is no section Elsewhere"):
        readme.blocks("Elsewhere")


def test_the_mirror_is_that_of_the_release_itself() -> None:
    assert root.mirror_of(TARGETS) == ("http://mirror.example/debian/", "bookworm")


def test_without_a_mirror_it_says_what_to_do() -> None:
    with pytest.raises(CannotRun, match="apt-get update"):
        root.mirror_of("http://x.example/ nodistro main-of-another\n")


def test_without_the_tools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(CannotRun, match="apt-get install systemd-container debootstrap util-linux"):
        root.ensure_tools()


def test_an_ordinary_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotRun, match="needs root"):
        root.ensure_tools()


def test_a_program_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(CannotRun, match="sh -c echo oh; exit 3 failed: oh"):
        root.run(["sh", "-c", "echo oh; exit 3"], 10)


def test_wheels_are_asked_for_all_that_an_install_needs() -> None:
    wanted = root.requirements()
    assert {one.split(">")[0] for one in wanted} >= {"setuptools", "numpy", "uvloop", "pydantic"}
