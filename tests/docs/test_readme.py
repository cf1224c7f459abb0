# SPDX-License-Identifier: GPL-2.0-only
"""README's tour, the trace of docs/monitoring.md and the Python of docs/cache.md: executed as written."""

import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from instruments.clients.daemon_process import BIN, DaemonProcess
from instruments.time.patience import tries

ROOT = Path(__file__).parents[2]
README, CACHE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "cache.md").read_text()
BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")
PICTURE_BYTES = 48317
IMAGE = "/home/you/bcached/var/demo.img"  # as README has it
OPTIONAL = {"bcache-super-show": "bcache-super-show", "jq": "jq"}
SYSTEM_SOCKET = "/run/bcached/io.bcached"
WITHIN_S = 60


def tour() -> list[tuple[str, str]]:
    section = README.split("\n## A tour of five minutes\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def pattern(line: str) -> str:
    """What a line may be instead: with other numbers, and only as far as the bar, which may be another."""
    line = re.split(r"[█░]", line.replace('"46168941-..."', '"UUID"'))[0].strip()
    words = re.escape(line).replace("\\ ", " ").split()
    numbers = (re.sub(r"[0-9]+(?:\\?[.,][0-9]+)*", r"[0-9.,]+", word) for word in words)
    return r"\s+".join(numbers).replace("UUID", "[0-9a-f-]{36}")


def differs(written: list[str], printed: str) -> str | None:
    """Returns the first line of those written that does not follow in what was printed."""
    at = 0
    for line in written:
        # Beside the free lists are the states that buckets are in at that time, which may be others.
        if line.strip() == "..." or line.startswith(" " * 40) or "[match]" in line:
            continue
        match = re.compile(pattern(line)).search(printed, at)
        if match is None:
            return line
        at = match.end()
    return None


def test_the_tour_of_the_readme_happens(folder: Path, running: DaemonProcess) -> None:
    (folder / "cat.jpg").write_bytes(bytes(range(256)) * 188 + bytes(PICTURE_BYTES - 256 * 188))
    (serving,) = (line for line in running.logs if line["message"] == "serving")
    metrics = urlsplit(serving["metrics"][0]).netloc
    exports = ""
    namespace: dict[str, Any] = {}
    for kind, block in tour():
        if kind == "python":
            exec(compile(block, "README.md", "exec"), namespace)
            continue
        for command, written in steps(block) if block.startswith("$ ") else []:
            if command.startswith("export "):
                exports += f"{command}\n"
            elif all(shutil.which(tool) for word, tool in OPTIONAL.items() if word in command):
                command = command.replace("127.0.0.1:9712", metrics)  # noqa: PLW2901
                printed = run(exports + command).replace(
                    str(running.folder / "cache.img"), "/home/you/bcached/var/demo.img"
                )
                assert differs(written, printed) is None, printed
    assert (folder / "same-cat.jpg").read_bytes() == (folder / "cat.jpg").read_bytes()
    assert namespace["inode"] == 1


def run(commands: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        env={**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "120"},
    )
    assert (done.returncode, done.stderr) == (0, ""), commands
    return done.stdout


def test_the_trace_of_the_monitoring_page_happens(running: DaemonProcess) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (block,) = (block for kind, block in BLOCK.findall(page) if block.startswith("$ bcachectl trace"))
    ((command, written),) = steps(block)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment["BCACHED_SOCKET"] = str(running.socket_path)
    started = ["bash", "-c", f"exec {command} --limit 1"]
    with subprocess.Popen(started, env=environment, stdout=subprocess.PIPE, text=True) as tracing:
        assert tracing.stdout is not None
        for _ in tries(WITHIN_S, pause_s=0.1):  # until it listens
            running.ask("Admin.CollectGarbage", wait=True)
            if select.select([tracing.stdout], [], [], 0)[0]:
                break
        printed = tracing.stdout.read()
    assert tracing.returncode == 0
    assert re.fullmatch(r" *[0-9.]+: bcache:bcache_gc_(start|end): .*\n", printed)
    assert re.fullmatch(r" *[0-9.]+: bcache:bcache_gc_start: trigger=traffic", written[1])


@pytest.mark.parametrize(
    ("written", "printed", "expected"),
    [
        ("48 bytes in 1 file", "12,345 bytes   in 7 file", True),
        ("48 bytes in 1 file", "48 bytes of 1 file", False),
        ('x{uuid="46168941-..."} 4.0', 'x{uuid="d2aeccd0-c0bd-4413-8d97-34847371875e"} 1.0', True),
        ("free_inc  6/15  ████░░░░  uuid 1", "free_inc  2/4  █░░░ clean 9", True),
        ("sb.magic  ok", "sb.magic  bad", False),
    ],
)
def test_what_is_printed_otherwise_is_seen(written: str, printed: str, expected: bool) -> None:
    assert (differs([written], printed) is None) is expected


def test_lines_in_another_order_are_seen() -> None:
    assert differs(["a", "b"], "b\na\n") == "b"


def test_the_python_of_the_cache_page_runs(folder: Path) -> None:
    """Each block in a process of its own, since Django is configured once."""
    calls = {
        "from bcached.client import Cache": "assert thumbnail('a', 1) is None",
        "from bcached.client import AsyncCache": "import asyncio; asyncio.run(main())",
        "from dogpile": "assert thumbnail('a', 1) is None",
        "CACHES": "from django.conf import settings; settings.configure(CACHES=CACHES);"
        "from django.core.cache import cache; cache.set('a', 1); assert cache.get('a') == 1",
    }
    blocks = [block for kind, block in BLOCK.findall(CACHE) if kind == "python"]
    assert len(blocks) == len(calls)
    for block, (begin, call) in zip(blocks, calls.items(), strict=True):
        assert block.startswith(begin)
        if "with Cache(" in block:  # the cache is closed where the block ends
            call = f"    {call}"  # noqa: PLW2901
        code = f"{block}\n{call}\n".replace(SYSTEM_SOCKET, str(folder / "var/bcached.sock"))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S)
        assert (done.returncode, done.stderr) == (0, ""), code
