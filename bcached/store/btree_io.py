"""Nodes between memory and the devices: read one, append to one, write new ones whole."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from bcached.device.shared_flush import SharedFlush
from bcached.device.together import together
from bcached.errors import BadField, FormatError
from bcached.format.bkey import Bounds, check_extent, check_node_key
from bcached.format.bset import pack_words, read_frames
from bcached.keys import Key
from bcached.state.btree_node import Interior, Leaf, Node
from bcached.state.children import Position, position_of, sort_out
from bcached.state.extents import Extents
from bcached.state.leaf_columns import lay_over
from bcached.state.node_shape import NodeShape
from bcached.state.tree_change import Piece
from bcached.store.btree_needs import NodeBuckets
from bcached.store.membership import MemberFound
from bcached.store.node_reader import NodeFound, read_node
from bcached.units import SECTOR_BYTES

MayBeTorn = Callable[[NodeFound], bool]


class NodeIo:
    """Reads and writes the nodes of one set.

    may_be_torn says of a node whose last bset has a wrong checksum whether that can come from an append that
    a crash cut off: while a set is recovered, if the journal has keys for the range. Else it is damage.
    """

    def __init__(
        self,
        members: Sequence[MemberFound],
        shape: NodeShape,
        bounds: Bounds,
        may_be_torn: MayBeTorn = lambda _: False,
    ) -> None:
        self.shape = shape
        self.may_be_torn = may_be_torn
        self.nodes_read = 0
        self.nodes_written = 0
        self.blocks_appended = 0
        self.written_bytes = 0
        self.vanished: list[tuple[Interior, int]] = []  # nodes read, and how many of their children are gone
        self.path = members[0].path
        self._members = members
        self._flushes = [SharedFlush(member.block_device) for member in members]
        self._bounds = bounds
        self._set_magic = members[0].superblock.set_magic

    async def read(
        self, key: Key, level: int, low: Position, buckets: NodeBuckets, below: Sequence[Key] = ()
    ) -> Node:
        """The node that a key names; a leaf lies over the older ones below it, the newest of them first."""
        check_node_key(key, self._bounds, f"btree, level {level}")
        self.nodes_read += 1
        if level == 0 and not below:
            leaf = await self._read_plain_leaf(key, low)
            if leaf is not None:
                return leaf
        found = await read_node(self._members, key, level, low)
        is_torn = found.is_torn and self.may_be_torn(found)
        if found.damage is not None and not is_torn:
            raise found.damage
        last = found.bsets[-1]
        used = last.offset_bytes // self.shape.block_bytes + last.blocks
        # Behind a torn bset nothing can be appended.
        blocks_used = self.shape.blocks_of(key.sectors) if is_torn else used
        seq = last.bset.seq
        node: Node
        if level:
            node = self._interior(found, seq, blocks_used, buckets)
            node.is_torn = is_torn
        else:
            older = [await self._read_sound(shadowed, low) for shadowed in reversed(below)]
            node = self._leaf([*older, found], seq, blocks_used)
            node.is_torn = is_torn or bool(below)
        return node

    async def _read_sound(self, key: Key, low: Position) -> NodeFound:
        """A leaf that another lies over."""
        found = await read_node(self._members, key, 0, low)
        if found.damage is not None:
            raise found.damage
        return found

    async def _read_plain_leaf(self, key: Key, low: Position) -> Leaf | None:
        """A leaf that nothing is wrong with; None if it has to be read key by key."""
        pointer, block_bytes = key.pointers[0], self.shape.block_bytes
        device = self._members[pointer.device].block_device
        raw = await device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
        try:
            frames = list(read_frames(raw, key, self._set_magic, block_bytes))
        except FormatError:
            return None
        bsets = [frame.keys for frame in frames]
        live = lay_over(bsets, low, position_of(key), self._bounds, self.shape.bucket_sectors)
        if live is None:
            return None
        last = frames[-1]
        return Leaf(key, last.seq, last.offset_bytes // block_bytes + last.blocks, live)

    async def append(self, node: Node, parts: Sequence[bytes]) -> None:
        """Write bsets of one block each behind those that a node has, durably, one after the other.

        Each is durable before the next is begun: behind one that is missing, a later one would come to light
        again as soon as the gap is filled.
        """
        block_bytes = self.shape.block_bytes
        pointer = node.key.pointers[0]
        place = pointer.sector * SECTOR_BYTES + node.blocks_used * block_bytes
        end = (pointer.sector + node.key.sectors) * SECTOR_BYTES
        for keys in parts:
            raw = pack_words(node.seq, keys, node.key, self._set_magic, block_bytes)
            assert len(raw) == block_bytes, "an appended bset is one block, so that it is there or not"
            assert place + block_bytes <= end, "the node is full"
            await self._write(pointer.device, place, raw)
            place += block_bytes
            self.blocks_appended += 1

    async def write_whole(self, pieces: Sequence[Piece]) -> None:
        """Write new nodes, durably; nothing names them yet."""
        await together(partial(self._write_piece, piece) for piece in pieces)

    async def _write_piece(self, piece: Piece) -> None:
        pointer = piece.key.pointers[0]
        parts: list[bytes] = []
        for part in piece.packed():
            if parts:
                await asyncio.sleep(0)
            parts.append(part)
        raw = pack_words(piece.seq, b"".join(parts), piece.key, self._set_magic, self.shape.block_bytes)
        assert len(raw) <= piece.key.sectors * SECTOR_BYTES
        await self._write(pointer.device, pointer.sector * SECTOR_BYTES, raw)
        self.nodes_written += 1

    async def _write(self, member: int, place: int, raw: bytes) -> None:
        """Write to a member, durably; nodes that are written at the same time share a flush."""
        await self._members[member].block_device.write(place, raw)
        await self._flushes[member].flush()
        self.written_bytes += len(raw)

    def _leaf(self, layers: Sequence[NodeFound], seq: int, blocks_used: int) -> Leaf:
        """A leaf, the last of these, over older ones."""
        live = Extents(merge_within=self.shape.bucket_sectors)
        for found in layers:
            low = found.low
            for key in found.all_keys():
                check_extent(key, self._bounds, found.where)
                if key.sectors and (key.inode, key.offset) < low:
                    start = (key.inode, key.offset)
                    raise BadField("extent", f"{found.where}, start", f"at least {low}", start)
                live.insert(key)
        return Leaf(layers[-1].key, seq, blocks_used, live)

    def _interior(self, found: NodeFound, seq: int, blocks_used: int, buckets: NodeBuckets) -> Interior:
        """An interior node: which children live is known once all keys have raised their buckets' gens."""
        keys = found.all_keys()
        for key in keys:
            check_node_key(key, self._bounds, found.where)
            for pointer in key.pointers:
                buckets.raise_gen(pointer)
        children = sort_out(found.keys_of_newest_first(), buckets.staleness)
        if children.doubled and found.level > 1:
            raise BadField("node", f"{found.where}, children", "one at a position", children.doubled[0])
        last = position_of(children.live[-1]) if children.live else None
        if last != found.high:
            raise BadField("node", f"{found.where}, last child", found.high, last)
        node = Interior(found.key, found.level, seq, blocks_used, list(children.all_live))
        if children.vanished:
            self.vanished.append((node, len(children.vanished)))
        live = set(children.all_live)
        node.replaced = [key for key in keys if key not in live]
        return node
