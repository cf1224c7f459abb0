# SPDX-License-Identifier: GPL-2.0-only
from io import StringIO

import pytest
from rich.console import Console

from bcached.cli.volumes.volume import table
from bcached.wire.volume_messages import Volume, VolumeOwner

UUID = "43d35b6a-9d0c-4cfd-9fd5-ef23f4b6a3e1"
LABEL = "a label of the longest sort, 32B"


@pytest.mark.parametrize("owner", [None, VolumeOwner(user=0, others="nothing")])
@pytest.mark.parametrize("maker", [None, 4294967294])
def test_a_table_of_eighty_columns_leaves_nothing_out(owner: VolumeOwner | None, maker: int | None) -> None:
    drawn = StringIO()
    volumes = [Volume(0, UUID, "photos", 0, False), Volume(4095, UUID, LABEL, 0, False, owner, maker)]
    Console(file=drawn, width=80).print(table(volumes))
    lines = drawn.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert ("owner" in lines[0], "made by" in lines[0]) == (owner is not None, maker is not None)
    whole = "".join(drawn.getvalue().split())
    assert whole.count("\u2026") == 0 or (owner is not None and maker is None)
    if maker is not None:
        assert str(maker) in whole
        assert all(word in whole for word in LABEL.split())
        columns = [line[lines[0].index("uuid") :].strip() for line in lines[1:]]
        assert "".join(columns) == UUID * 2
