# SPDX-License-Identifier: GPL-2.0-only
"""A walk through a log must say just what the log itself answers, at every position."""

from random import Random

import pytest

from instruments.crash.crash_states import Clock, ClockedLog, State, StateDevice, Walk, draw_states
from instruments.devices.durability_log import Entry

SECTORS = 12
BYTES = SECTORS * 512


def random_log(random: Random) -> ClockedLog:
    """Writes, durable writes, discards and flushes that overlap in every way, and some that fail."""
    log = ClockedLog(random.randbytes(BYTES), Clock())
    running: list[Entry] = []
    for _ in range(60):
        if running and random.random() < 0.5:
            entry = running.pop(random.randrange(len(running)))
            (log.fail if random.random() < 0.1 else log.complete)(entry)
            continue
        begin = random.randrange(SECTORS)
        length = random.randint(1, min(4, SECTORS - begin)) * 512
        kind = random.choice(["write", "write", "durable", "discard", "flush", "flush"])
        if kind == "flush":
            running.append(log.issue("flush"))
        elif kind == "discard":
            running.append(log.issue("discard", begin * 512, length))
        else:
            data = bytes([random.randrange(4)]) * length  # few contents, so that some are equal
            running.append(log.issue_write(begin * 512, data, kind == "durable"))
    return log


@pytest.mark.parametrize("seed", range(60))
def test_a_walk_says_what_the_log_answers(seed: int) -> None:
    log = random_log(Random(seed))
    walk = Walk(log)
    for position in range(log.position + 1):
        walk.advance(position)
        for index, choices in enumerate(log.possible_bytes(0, BYTES, position)):
            sector = index * 512
            here = bytes(walk.certain[sector : sector + 512])
            certain = {None} if sector in walk.undefined else {here}
            assert set(walk.uncertain.get(sector, certain)) == choices, (seed, position, sector)


async def test_drawn_states_are_possible_ones_and_the_oldest_and_newest_are_among_them() -> None:
    random = Random(1)
    log = random_log(random)
    walk = Walk(log)
    position = log.position // 2
    walk.advance(position)
    possible = log.possible_bytes(0, BYTES, position)
    images = [bytes(states[0].image()) for states in draw_states([walk], random, 200)]
    for image in images:
        strange = [
            index
            for index, choices in enumerate(possible)
            if image[index * 512 : index * 512 + 512] not in choices and None not in choices
        ]
        assert len(strange) <= 3, "no more than a few sectors are garbage"
    for choice in (0, -1):
        contents = {sector: choices[choice] for sector, choices in walk.uncertain.items()}
        assert any(
            all(content in (None, image[sector : sector + 512]) for sector, content in contents.items())
            for image in images
        )


async def test_a_device_in_a_state_reads_as_its_image_and_can_be_written() -> None:
    state = State(bytearray(BYTES), {512: b"d" * 512}, {1024}, b"u" * 512)
    device = StateDevice(state)
    assert await device.read(0, BYTES) == state.image()
    assert await device.read(512, 1024) == b"d" * 512 + b"u" * 512
    await device.write(1024, b"w" * 1024)
    assert await device.read(0, BYTES) == state.image() == bytes(512) + b"d" * 512 + b"w" * 1024 + bytes(4096)
    assert device.writes == 1


def test_the_power_fails_for_all_devices_at_one_moment() -> None:
    clock = Clock()
    logs = [ClockedLog(bytes(BYTES), clock) for _ in range(2)]
    entry = logs[0].issue_write(0, b"a" * 512, durable=True)
    logs[1].issue("flush")
    logs[0].complete(entry)
    assert clock.now == 3
    assert clock.positions[1:] == [(1, 0), (1, 1), (2, 1)]
