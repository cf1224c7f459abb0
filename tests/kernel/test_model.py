# SPDX-License-Identifier: GPL-2.0-only
"""What volumes must hold, and what a reader is told of what they do not. The cases here need no machine."""

from .images import SECTOR
from .model import NOTHING, Model, token


def volume(sectors: int = 8) -> Model:
    return Model(3, b"".join(token(0, sector, 0) for sector in range(sectors)))


def held(model: Model, *changes: tuple[int, bytes]) -> bytes:
    data = bytearray(model.below)
    for sector, what in changes:
        data[sector * SECTOR : sector * SECTOR + len(what)] = what
    return bytes(data)


def test_a_volume_nobody_wrote_to_holds_what_is_below() -> None:
    model = volume()
    assert model.wrong(model.below) == []
    (told,) = model.wrong(held(model, (5, NOTHING)))
    assert "1 of 8 sectors are wrong; first is sector 5: b'', expected b'inode 0 sector 5" in told
    assert "expected 4096" in model.wrong(b"")[0]


def test_dirty_data_must_be_there_and_clean_data_may_be() -> None:
    model = volume()
    dirty = model.write(1, 2, 7, dirty=True)
    clean = model.write(4, 1, 8, dirty=False)
    assert model.wrong(held(model, (1, dirty), (4, clean))) == []
    assert model.wrong(held(model, (1, dirty))) == []
    assert "2 of 8" in model.wrong(held(model, (4, clean)))[0]
    assert "1 of 8" in model.wrong(held(model, (1, dirty), (4, dirty[:SECTOR])))[0]
    assert model.served(held(model, (1, dirty), (4, clean))) == 1
    assert model.served(held(model, (1, dirty))) == 0


def test_what_is_dropped_or_overwritten_must_not_come_back() -> None:
    model = volume()
    old = model.write(1, 2, 7, dirty=True)
    new = model.write(1, 1, 8, dirty=True)
    model.drop(2, 1)
    assert model.wrong(held(model, (1, new))) == []
    assert "2 of 8" in model.wrong(held(model, (1, old)))[0]


def test_what_was_cut_off_may_have_happened_and_then_has_or_has_not() -> None:
    model = Model(3, bytes(4 * SECTOR))
    data = token(3, 1, 5)
    model.open[1] = [NOTHING, data]
    found = held(model, (1, data))
    assert model.wrong(found) == model.wrong(model.below) == []
    assert "1 of 4" in model.wrong(held(model, (1, token(3, 1, 6))))[0]
    model.settle(found)
    assert model.wrong(found) == []
    assert "1 of 4" in model.wrong(model.below)[0]
