# SPDX-License-Identifier: GPL-2.0-only
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demonstration_ends_by_itself_and_well() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "demo.session"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "so the key is valid" in shown.stdout
    assert "violations: 0" in shown.stdout
    assert "stopped cleanly with status 0" in shown.stdout
