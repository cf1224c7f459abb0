# SPDX-License-Identifier: GPL-2.0-only
"""`make run`: the image, the configuration and the daemon, in a folder like a checkout."""

import json
import re
import signal
import subprocess
from pathlib import Path

from instruments.clients.daemon_process import BIN
from instruments.time.patience import tries

ROOT = Path(__file__).parents[2]
START_S = 60


def test_make_run_serves_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(BIN.parent)
    (tmp_path / "demo").mkdir()
    script = tmp_path / "demo" / "run"
    # Another port than the one of README, which may be in use here.
    script.write_text((ROOT / "demo" / "run").read_text().replace("127.0.0.1:9712", "127.0.0.1:0"))
    script.chmod(0o755)
    (make,) = re.findall(r"(?m)^var/demo.img:.*\n\t@mkdir.*\n\t(.*)$", (ROOT / "Makefile").read_text())
    (tmp_path / "var").mkdir()
    command = make.replace("$(BIN)", str(BIN)).replace("$@", "var/demo.img").split()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    status = [str(BIN / "bcachectl"), "--socket", "var/bcached.sock", "status", "--json"]
    with subprocess.Popen([script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:
        for _ in tries(START_S, pause_s=0.05):
            asked = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True)
            if asked.returncode == 0 or daemon.poll() is not None:
                break
        daemon.send_signal(signal.SIGINT)
        printed, log = daemon.communicate(timeout=START_S)
    assert asked.returncode == 0, log
    (member,) = json.loads(asked.stdout)["state"]["members"]
    assert (member["path"], member["bucket_count"]) == (str(tmp_path / "var/demo.img"), 4096)
    assert "In another terminal:" in printed
    assert daemon.returncode == 0, log
