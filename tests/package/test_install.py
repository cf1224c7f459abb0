# SPDX-License-Identifier: GPL-2.0-only
"""`make install`, its repetition as an upgrade, and `make uninstall`, from the source distribution.

Dependencies are those of the tests' environment, which saves downloading them; `make package-test` and
`make systemd-test` install all.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bcached import __version__

pytestmark = pytest.mark.timeout(600)  # environments are made, on a machine that does much else
CONFIGURATION = "etc/bcached/bcached.toml"
ENVIRONMENT = {
    **os.environ,
    "PIP_NO_DEPS": "1",
    "PYTHONPATH": sysconfig.get_path("purelib"),
}


def make(sources: Path, target: str, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the unpacked sources for that root."""
    command = ["make", target, f"DESTDIR={root}", f"PYTHON={sys.executable}", *more]
    return subprocess.run(command, cwd=sources, env=ENVIRONMENT, capture_output=True, text=True)


def files(root: Path) -> set[str]:
    """All files and links, but the environment's."""
    found = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return {path for path in found if not path.startswith("opt/")}


def test_an_install_an_upgrade_and_an_uninstall(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = sorted(sources.rglob("*"))
    done = make(sources, "install", root)
    assert done.returncode == 0, done.stderr
    assert sorted(sources.rglob("*")) == before, "nothing is written into the sources"
    (line,) = [line for line in done.stdout.splitlines() if not line.startswith("make")]
    assert line.startswith(f"bcached {__version__} is installed in {root}/opt/bcached. README")
    installed = files(root)
    assert CONFIGURATION in installed
    assert {"usr/local/bin/bcached", "usr/local/share/man/man8/bcachectl.8"} <= installed
    text = (root / "opt/bcached/bin/bcachectl").read_text()
    assert (str(root) in text, text.startswith("#!/opt/bcached/bin/python")) == (False, True)

    # 1. An upgrade that fails leaves the environment as it is.
    inode = (root / "opt/bcached").stat().st_ino
    constraints = (sources / "constraints.txt").read_text()
    (sources / "constraints.txt").write_text("not a constraint\n")
    assert make(sources, "install", root).returncode != 0
    assert (root / "opt/bcached").stat().st_ino == inode
    assert (root / "opt/bcached/bin/bcachectl").read_text() == text
    (sources / "constraints.txt").write_text(constraints)

    # 2. One that succeeds replaces it as a whole, and leaves the configuration as it is.
    package = sources / "bcached/__init__.py"
    package.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', package.read_text()))
    (root / CONFIGURATION).write_text("[log]\nlevel = 'debug'\n")
    assert make(sources, "install", root).returncode == 0
    assert [path.name for path in (root / "opt").iterdir()] == ["bcached"]
    (metadata,) = (root / "opt/bcached/lib").rglob("bcached-*.dist-info")
    assert metadata.name == "bcached-9.9.9.dist-info"
    assert (root / CONFIGURATION).read_text() == "[log]\nlevel = 'debug'\n"
    assert files(root) == installed

    # 3. The configuration is all that an uninstall leaves.
    assert make(sources, "uninstall", root).returncode == 0
    assert files(root) == {CONFIGURATION}
    assert list((root / "opt").iterdir()) == []
    assert make(sources, "uninstall", root).returncode == 0, "also a second one"


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_folder_with_other_things_in_it_is_left_alone(sources: Path, tmp_path: Path, target: str) -> None:
    prefix = tmp_path / "root/usr/local"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/other").write_text("")
    done = make(sources, target, tmp_path / "root", "PREFIX=/usr/local")
    assert done.returncode != 0
    assert f"{prefix}: not made by make install" in done.stderr
    # With what an environment has in it, as well.
    (prefix / "bin/bcached").write_text("")
    (prefix / "pyvenv.cfg").write_text("")
    (prefix / "games").mkdir()
    assert make(sources, target, tmp_path / "root", "PREFIX=/usr/local").returncode != 0
    assert (prefix / "bin/other").exists()


def test_an_install_that_was_interrupted_between_two_renames_is_taken_up(
    sources: Path, tmp_path: Path
) -> None:
    old = tmp_path / "root/opt/bcached.old"
    (old / "bin").mkdir(parents=True)
    (old / "bin/bcached").write_text("the previous one")
    (old / "pyvenv.cfg").write_text("")
    assert make(sources, "install", tmp_path / "root", "PYTHON=false").returncode != 0
    assert (tmp_path / "root/opt/bcached/bin/bcached").read_text() == "the previous one"
