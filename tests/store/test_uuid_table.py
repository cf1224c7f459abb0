from uuid import UUID

from bcached.format.uuid_entry import UuidEntry, pack_table, parse_table
from bcached.store.fitting import geometry_for
from bcached.store.uuid_table import UuidTable

GEOMETRY = geometry_for(4 << 20, bucket_sectors=8, block_sectors=8)


def test_a_label_cut_in_mid_character_can_be_told_and_goes_back_as_it_was() -> None:
    raw = UuidEntry(UUID(int=1), "x" * 31 + "\udcc3").pack().ljust(4096, b"\0")
    table = UuidTable(GEOMETRY, parse_table(raw))
    assert [volume.label.encode() for volume in table.volumes()] == [("x" * 31 + "\ufffd").encode()]
    assert pack_table(table.entries, 4096) == raw
