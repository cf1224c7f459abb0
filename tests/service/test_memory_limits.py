# SPDX-License-Identifier: GPL-2.0-only
"""Under any limit on address space both programs work, or say in one line that it is too small."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bcached.entry_points import ADDRESS_SPACE_MIN

BIN = Path(sys.executable).parent
MIB = 1 << 20


@pytest.mark.parametrize(
    "limit", [64 * MIB, 160 * MIB, 300 * MIB, ADDRESS_SPACE_MIN - 1, ADDRESS_SPACE_MIN, 4 << 30]
)
@pytest.mark.parametrize(
    "program", [["bcached", "--version"], ["bcachectl", "make", "--size", "64M", "-b", "64k"]]
)
def test_a_limit_on_address_space_is_enough_or_is_told(
    tmp_path: Path, program: list[str], limit: int
) -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [str(BIN / program[0]), *program[1:]]
    command += [str(tmp_path / "image")] * (program[0] == "bcachectl")
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bounded, timeout=60)
    if limit >= ADDRESS_SPACE_MIN:
        assert (done.returncode, done.stderr) == (0, "")
        return
    (line,) = done.stderr.splitlines()
    assert line == (
        f"{program[0]}: the limit on address space (ulimit -v, LimitAS=) is {limit >> 10} KiB, and at least "
        f"{ADDRESS_SPACE_MIN >> 10} KiB are needed"
    )
    assert (done.returncode, done.stdout) == (1, "")
