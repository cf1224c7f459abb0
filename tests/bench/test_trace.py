# SPDX-License-Identifier: GPL-2.0-only
"""Traces are read as they are, and the LRU they are compared with is exact."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from bench.exact_lru import ExactLru
from bench.trace import replayed, set_size
from bench.trace_files import ORACLE_GENERAL, SAME_BYTES, Request, footprint, requests_of, zipf


def test_the_three_forms_are_read(tmp_path: Path) -> None:
    binary = tmp_path / "a.oracleGeneral.bin"
    np.array([(1, 7, 512, 3), (2, 1 << 63, 4096, -1)], ORACLE_GENERAL).tofile(binary)
    assert requests_of(binary) == [Request("7", 512), Request(str(1 << 63), 4096)]
    table = tmp_path / "a.csv"
    table.write_text("version,time,op,size,lbn\n1,5,2a,512,42932745\n1,6,2a,1024,7\n")
    assert requests_of(table) == [Request("42932745", 512), Request("7", 1024)]
    lines = tmp_path / "a.txt"
    lines.write_text("7\n8\n\n7\n")
    assert requests_of(lines) == [Request(name, SAME_BYTES) for name in "787"]


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(23))
    with pytest.raises(ValueError, match="records of 24 bytes"):
        requests_of(tmp_path / "a.bin")
    (tmp_path / "a.csv").write_text("when,what\n1,2\n")
    with pytest.raises(ValueError, match="expected a column"):
        requests_of(tmp_path / "a.csv")


def test_the_lru_has_what_was_used_last_and_no_more_bytes_than_it_may() -> None:
    random, lru, capacity = Random(1), ExactLru(100), 100
    used: list[Request] = []
    for _ in range(2000):
        number = random.randrange(20)
        one = Request(str(number), 5 + number)
        before = {}
        for request in reversed(used):  # the newest first, until the next would not fit
            if request.name not in before:
                before[request.name] = request.length
        kept, total = set(), 0
        for name, length in before.items():
            total += length
            if total > capacity:
                break
            kept.add(name)
        assert lru.access(one) == (one.name in kept)
        used.append(one)


def test_a_set_has_a_tenth_of_the_footprint_in_buckets_enough() -> None:
    assert set_size(20 << 30) == (2 << 30, 512 << 10)
    assert set_size(2 << 30)[1] == 128 << 10
    assert set_size(1) == (1024 * (16 << 10), 16 << 10)


@pytest.mark.timeout(300)
def test_a_trace_is_replayed(tmp_path: Path) -> None:
    requests = zipf(4000, 3000, 0.9)
    found = replayed(requests, tmp_path)
    distinct = len({one.name for one in requests})
    assert found.footprint == footprint(requests)
    assert found.requests == 4000
    assert 0 < found.hits <= 4000 - distinct
    assert found.lru_hits <= 4000 - distinct
