# SPDX-License-Identifier: GPL-2.0-only
from hypothesis import given
from hypothesis import strategies as st

from bcached.state.index.keys.key_ranges import Span
from bcached.state.index.keys.span_set import SpanSet

SPANS = st.builds(
    lambda inode, start, sectors: (inode, start, start + sectors),
    st.integers(0, 2),
    st.integers(0, 30),
    st.integers(1, 8),
)


def sectors_of(*spans: Span) -> set[tuple[int, int]]:
    return {(inode, sector) for inode, start, end in spans for sector in range(start, end)}


@given(st.lists(SPANS, max_size=12), SPANS)
def test_it_is_the_union_of_its_ranges(spans: list[Span], asked: Span) -> None:
    united = SpanSet(spans)
    assert sectors_of(*united.spans) == sectors_of(*spans)
    assert united.spans == sorted(united.spans)
    assert united.touches(*asked) == bool(sectors_of(asked) & sectors_of(*spans))
    gaps = list(united.gaps(*asked))
    assert gaps == sorted(gaps)
    assert sectors_of(*gaps) == sectors_of(asked) - sectors_of(*spans)
    assert united.has_overlaps == (len(sectors_of(*spans)) < sum(end - start for _, start, end in spans))
