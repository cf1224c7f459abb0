# SPDX-License-Identifier: GPL-2.0-only
"""What the Debian package is built from; `make package-test` builds, installs, upgrades and removes it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deb"
SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_maintainer_script_is_one_for_any_shell_and_stops_at_an_error(script: str) -> None:
    text = (FOLDER / script).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -e\n" in text
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", FOLDER / script]).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_maintainer_script_has_nothing_to_do_for_what_dpkg_does_not_ask(
    script: str, tmp_path: Path
) -> None:
    # Without a service manager, as in an image being built: no program but the shell's own is called.
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here, and would be spoken to")
    done = subprocess.run(["/bin/sh", FOLDER / script, "abort-upgrade"], env={"PATH": str(tmp_path)})
    assert done.returncode == 0


def test_every_value_of_the_control_file_is_filled_in() -> None:
    wanted = set(re.findall(r"@(\w+)@", (FOLDER / "control.in").read_text()))
    given = set(re.findall(r"s/@(\w+)@/", (FOLDER / "make").read_text()))
    assert wanted == given


def test_the_package_has_what_make_install_has() -> None:
    variables = set(re.findall(r"(?m)^(\w+) +\?=", (FOLDER.parent / "install.mk").read_text()))
    set_here = set(re.findall(r"\b([A-Z]+DIR)=", (FOLDER / "make").read_text()))
    assert variables - set_here == {"PREFIX", "CONFDIR"}, "the others are paths for what Debian does not ship"
