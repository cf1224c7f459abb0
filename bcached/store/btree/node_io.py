# SPDX-License-Identifier: GPL-2.0-only
"""Nodes between memory and the devices: read one, append to one, write new ones whole."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from bcached.device.run_all import run_all
from bcached.device.shared_flush import SharedFlush
from bcached.format.bkey import Bounds, check_node_key
from bcached.format.bset import pack_words
from bcached.keys import Key
from bcached.state.index.keys.interior_keys import Position
from bcached.state.index.node import Interior, Leaf, Node
from bcached.state.index.node_shape import NodeShape
from bcached.state.index.tree_change import NewNode
from bcached.store.btree.node_reader import NodeFound, read_node
from bcached.store.btree.node_rules import BucketGens, MayBeTorn, judge_children, judge_damage, leaf_extents
from bcached.store.btree.plain_leaf import read_plain_leaf
from bcached.store.finding import OpeningReport, refuse_fatal
from bcached.store.membership import MemberFound
from bcached.tracepoints import OFF
from bcached.units import SECTOR_BYTES

Claim = Callable[[NodeFound], object]


def _never(_: NodeFound) -> bool:
    return False


class NodeIo:
    """Reads and writes the nodes of one set.

    may_be_torn returns whether a wrong checksum of a node's last bset can come from an append that a crash
    interrupted: during recovery, if the journal has keys for the range. Else it is damage. claim is called
    with each node before it is read, and may refuse it.
    """

    def __init__(
        self,
        members: Sequence[MemberFound],
        shape: NodeShape,
        bounds: Bounds,
        may_be_torn: MayBeTorn = _never,
    ) -> None:
        self.shape = shape  # limits of new nodes
        self.may_be_torn = may_be_torn
        self.claim: Claim = _never
        self.report = OpeningReport()  # which counts checksum errors
        self.trace = OFF
        self.nodes_read = 0
        self.nodes_written = 0  # nodes written whole
        self.blocks_appended = 0  # blocks appended to existing nodes
        self.written_bytes = [0] * len(members)  # of both, by member
        self.vanished: list[tuple[Interior, int]] = []  # nodes read, and how many children of each are lost
        self.path = members[0].path  # for errors that concern no single node
        self._members = members
        self._flushes = [SharedFlush(member.block_device) for member in members]  # by member
        self._bounds = bounds
        self._set_magic = members[0].superblock.set_magic

    async def read(
        self, key: Key, level: int, low: Position, gens: BucketGens, below: Sequence[Key] = ()
    ) -> Node:
        """Returns the node that a key names; a leaf is merged over the older ones in below, newest first."""
        check_node_key(key, self._bounds, f"btree, level {level}")
        layers = [NodeFound(layer, level, low) for layer in (*reversed(below), key)]
        for layer in layers:
            self.claim(layer)
        self.nodes_read += len(layers)
        if self.trace.listeners:
            for layer in layers:
                self._trace("bcache_btree_read", layer.key)
        if level == 0 and not below:
            plain = await read_plain_leaf(self._members, key, low, self._bounds)
            if plain is not None:
                return Leaf(key, plain.seq, plain.blocks_used, plain.extents)
        layers = [await self._read_sound(layer) for layer in layers]
        found = layers[-1]
        last = found.bsets[-1]
        used = last.offset_bytes // self.shape.block_bytes + last.blocks
        # Behind a torn bset nothing can be appended.
        blocks_used = self.shape.blocks_of(key.sectors) if found.is_torn else used
        seq = last.bset.seq
        if level:
            node = self._interior(found, seq, blocks_used, gens)
            node.is_torn = found.is_torn
            return node
        leaf = Leaf(key, seq, blocks_used, leaf_extents(layers, self._bounds, refuse_fatal))
        leaf.is_torn = found.is_torn or bool(below)
        return leaf

    async def _read_sound(self, layer: NodeFound) -> NodeFound:
        """Returns the node with its bsets from the device; raises if it is damaged."""
        found = await read_node(self._members, layer.key, layer.level, layer.low)
        judge_damage(found, self.may_be_torn, self.report)
        return found

    async def append(self, node: Node, parts: Sequence[bytes]) -> None:
        """Append bsets of one block each to a node, durably, one after the other.

        Each is durable before the next is begun: a later one behind a missing one would become valid as soon
        as the gap is filled.
        """
        block_bytes = self.shape.block_bytes
        pointer = node.key.pointers[0]
        byte = pointer.sector * SECTOR_BYTES + node.blocks_used * block_bytes
        end = (pointer.sector + node.key.sectors) * SECTOR_BYTES
        for keys in parts:
            raw = pack_words(node.seq, keys, node.key, self._set_magic, block_bytes)
            assert len(raw) == block_bytes, (
                "an appended bset must be one block, which is written whole or not at all"
            )
            assert byte + block_bytes <= end, "the node is full"
            await self._write(pointer.device, byte, raw)
            byte += block_bytes
            self.blocks_appended += 1
        if self.trace.listeners:
            self._trace("bcache_btree_write", node.key, block=node.blocks_used, blocks=len(parts))

    async def write_whole(self, new_nodes: Sequence[NewNode]) -> None:
        """Write new nodes, durably; nothing names them yet."""
        await run_all(partial(self._write_new_node, new_node) for new_node in new_nodes)

    async def _write_new_node(self, new_node: NewNode) -> None:
        pointer = new_node.key.pointers[0]
        parts: list[bytes] = []
        for part in new_node.packed():
            if parts:
                await asyncio.sleep(0)
            parts.append(part)
        raw = pack_words(new_node.seq, b"".join(parts), new_node.key, self._set_magic, self.shape.block_bytes)
        assert len(raw) <= new_node.key.sectors * SECTOR_BYTES
        await self._write(pointer.device, pointer.sector * SECTOR_BYTES, raw)
        self.nodes_written += 1
        if self.trace.listeners:
            self._trace(
                "bcache_btree_write", new_node.key, block=0, blocks=len(raw) // self.shape.block_bytes
            )

    def _trace(self, name: str, key: Key, **fields: int) -> None:
        pointer = key.pointers[0]
        bucket = pointer.sector // self.shape.bucket_sectors
        self.trace.emit(name, device=pointer.device, bucket=bucket, **fields)

    async def _write(self, member: int, byte: int, raw: bytes) -> None:
        """Write to a member, durably; nodes that are written at the same time share a flush."""
        await self._members[member].block_device.write(byte, raw)
        await self._flushes[member].flush()
        self.written_bytes[member] += len(raw)

    def _interior(self, found: NodeFound, seq: int, blocks_used: int, gens: BucketGens) -> Interior:
        """Returns an interior node: which children live is known once all keys have raised their gens."""
        _, children = judge_children(found, self._bounds, gens, refuse_fatal)
        node = Interior(found.key, found.level, seq, blocks_used, list(children.all_live))
        if children.vanished:
            self.vanished.append((node, len(children.vanished)))
        live = set(children.all_live)
        node.replaced = [key for key in found.all_keys() if key not in live]
        return node
