# SPDX-License-Identifier: GPL-2.0-only
"""Where nodes are cut, and when they are worth joining."""

import pytest

from bcached.state.index.node_shape import KEY_WORDS_MAX, NodeShape

SHAPES = [
    NodeShape(node_sectors=128, block_bytes=4096, bucket_sectors=128),
    NodeShape(node_sectors=8, block_bytes=512, bucket_sectors=8),
    NodeShape(node_sectors=8, block_bytes=4096, bucket_sectors=8),
    NodeShape(node_sectors=2, block_bytes=512, bucket_sectors=8),
    NodeShape(node_sectors=2048, block_bytes=4096, bucket_sectors=8192),
]
every_shape = pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: f"{shape.blocks}x{shape.block_bytes}"
)


def nodes_of(words: int, cuts: list[int]) -> list[int]:
    """The words of each node if every cut falls as late as it can."""
    late = [cut + KEY_WORDS_MAX - 1 for cut in cuts]
    return [end - begin for begin, end in zip([0, *late], [*late, words], strict=True)]


@every_shape
def test_every_node_of_a_division_fits(shape: NodeShape) -> None:
    for words in range(0, shape.words_in(shape.blocks) * 4, 7):
        for cuts in (shape.division(words), shape.division(words, tight=True)):
            assert cuts == sorted(cuts)
            assert all(0 <= part <= shape.words_in(shape.blocks) for part in nodes_of(words, cuts))


@every_shape
def test_a_tight_division_leaves_what_one_node_takes_in_one(shape: NodeShape) -> None:
    assert shape.division(shape.node_words, tight=True) == []
    assert len(shape.division(shape.node_words + 1, tight=True)) == 1
    for words in range(0, shape.node_words * 4, 7):
        assert len(shape.division(words, tight=True)) <= len(shape.division(words))


@every_shape
def test_a_node_is_cut_when_it_is_more_than_four_fifths_full(shape: NodeShape) -> None:
    most = shape.words_in(max(shape.blocks * 4 // 5, 1))
    assert shape.division(most) == []
    cuts = shape.division(most + 1)
    assert cuts[0] in {(most + 1) * 3 // 5, (most + 1) // 2}
    assert len(cuts) == 1


def test_of_two_halves_the_lower_gets_three_fifths() -> None:
    shape = SHAPES[0]
    assert shape.division(8000) == [4800]


@every_shape
def test_neighbours_are_joined_only_into_fewer_that_are_two_thirds_full(shape: NodeShape) -> None:
    full = shape.words_in(shape.blocks) * 2 // 3
    assert shape.coalescence(0, 2) == []
    assert shape.coalescence(full, 2) == []
    assert shape.coalescence(full + 1, 2) is None
    assert shape.coalescence(full + 1, 3) == [(full + 1) // 2]
    assert shape.coalescence(full, 1) is None


def test_blocks_and_words_agree() -> None:
    shape = SHAPES[1]
    assert shape.block_words == 60
    assert shape.blocks_for(60) == 1
    assert shape.blocks_for(61) == 2
    assert shape.blocks_for(0) == 1
    assert all(shape.words_in(shape.blocks_for(words)) >= words for words in range(500))
