# SPDX-License-Identifier: GPL-2.0-only
"""docs/client.md, executed from top to bottom against a daemon: its commands, its code and its messages."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
BLOCKS = [(kind, text) for kind, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)]
POINTER = {"device", "sector", "gen"}
VARY = {"sequence"}
WITHIN_S = 100


class Transcript:
    """Compares messages with those of the page. Pointers may be others here, but always the same ones."""

    def __init__(self) -> None:
        self._real: dict[str, dict[str, int]] = {}

    def request(self, written: Any) -> Any:
        """What to send: the page's message with the pointers that were received in place of those written."""
        if isinstance(written, list):
            return [self.request(one) for one in written]
        if not isinstance(written, dict):
            return written
        if set(written) == POINTER:
            return self._real[json.dumps(written)]
        return {name: self.request(value) for name, value in written.items()}

    def differs(self, written: Any, found: Any, where: str = "") -> str:
        """Where what was received is not as written; empty if nowhere."""
        match written, found:
            case dict(), dict():
                return self._members_differ(written, found, where)
            case list(), list():
                if len(written) != len(found):
                    return f"{where}: {len(written)} elements, found {len(found)}"
                pairs = enumerate(zip(written, found, strict=True))
                return self._first(self.differs(one, other, f"{where}[{at}]") for at, (one, other) in pairs)
            case str(), str():
                alike = re.fullmatch(re.escape(written).replace(r"\.\.\.", ".*"), found) is not None
            case _:
                varies = where.rpartition(".")[2] in VARY and type(written) is type(found)
                alike = varies or written == found
        return "" if alike else f"{where}: {written!r}, found {found!r}"

    def _members_differ(self, written: dict[str, Any], found: dict[str, Any], where: str) -> str:
        if set(written) != set(found):
            return f"{where}: members {sorted(written)}, found {sorted(found)}"
        if set(written) == POINTER:
            known = self._real.setdefault(json.dumps(written), self._shifted(written, found))
            return "" if found == known else f"{where}: pointer {known}, found {found}"
        return self._first(self.differs(written[name], found[name], f"{where}.{name}") for name in written)

    def _shifted(self, written: dict[str, int], found: dict[str, int]) -> dict[str, int]:
        """What a pointer must be, if the page has one into the same bucket already; else what was found."""
        for text, real in self._real.items():
            other = json.loads(text)
            if other["sector"] // 128 == written["sector"] // 128:
                return {**real, "sector": real["sector"] + written["sector"] - other["sector"]}
        return found

    @staticmethod
    def _first(differences: Iterator[str]) -> str:
        return next(filter(None, differences), "")


def exchange(block: str, namespace: dict[str, Any], transcript: Transcript) -> None:
    """Sends each line with >, and compares what comes with the line with < behind it."""
    lines = block.splitlines()
    assert [line[:2] for line in lines] == ["> ", "< "] * (len(lines) // 2)
    for request, reply in zip(lines[::2], lines[1::2], strict=True):
        message = transcript.request(json.loads(request[2:]))
        namespace["connection"].sendall(json.dumps(message).encode() + b"\0")
        assert transcript.differs(json.loads(reply[2:]), namespace["receive"]()) == "", request


def shell(folder: Path, commands: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{commands}\n{done.stderr}"
    return done.stdout


def test_all_that_the_page_shows_happens(folder: Path) -> None:
    namespace: dict[str, Any] = {}
    transcript = Transcript()
    exports, outputs = "", []
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/client.md", "exec"), namespace)
        elif kind == "json":
            exchange(block, namespace, transcript)
        elif kind == "sh":
            outputs.append(shell(folder, exports + block))
            exports += "\n".join(re.findall(r"(?m)^export .*$", block)) + "\n"
    assert [output.split()[:1] for output in outputs] == [["set"], [str(200 * 512)]]


def test_what_the_page_says_of_javascript_is_so() -> None:
    if shutil.which("node") is None:
        pytest.skip("no node")
    (block,) = (text for kind, text in BLOCKS if kind == "js")
    done = subprocess.run(["node", "-e", block], capture_output=True, text=True, timeout=WITHIN_S)
    assert (done.stdout.split(), done.stderr) == (re.findall(r"(?m); // (\S+)$", block), "")


def test_every_block_is_executed() -> None:
    assert {kind for kind, _ in BLOCKS} == {"json", "python", "sh", "js"}
    assert PAGE.count("\n```") == 2 * len(BLOCKS)


def test_a_reply_that_is_not_as_written_is_seen() -> None:
    transcript = Transcript()
    key = {"sectors": 8, "pointers": [{"device": 0, "sector": 128, "gen": 1}]}
    real = {"sectors": 8, "pointers": [{"device": 0, "sector": 512, "gen": 7}]}
    assert transcript.differs(key, real) == ""
    assert transcript.request(key) == real
    inside = {"sectors": 8, "pointers": [{"device": 0, "sector": 136, "gen": 1}]}
    assert transcript.differs(inside, real).startswith(".pointers[0]: pointer")
    assert transcript.differs({"path": "a...z", "sequence": 1}, {"path": "a/b/z", "sequence": 5}) == ""
    for wrong in [{"path": "b"}, {"path": "a/z", "more": 1}, {"path": 1}, {"path": ["a"]}, []]:
        assert transcript.differs({"path": "a...z"}, wrong) != ""
