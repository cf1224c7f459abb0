# SPDX-License-Identifier: GPL-2.0-only
"""A repair: steps that its owner names, each planned on the set as those before it will leave it.

Nothing is written while it is planned. It is checked what the steps will come to, then they are written in
order, and what the devices say afterwards is checked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.store.check.checker import CheckedSet, NodeRead, check_set, count_nothing
from bcached.store.finding import Severity, finding_of
from bcached.store.membership import MemberFound
from bcached.store.patched_device import patched_devices
from bcached.store.repair.applying import Applying, Progress, say_nothing
from bcached.store.repair.repair_step import RepairStep
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.rescue.unreadable import report_uncopied

MEMBERS_RULE = "set-members"


@dataclass(slots=True)
class Repair:
    """What was found, the steps, and what is found with them."""

    devices: Sequence[BlockDevice]
    before: CheckedSet
    steps: list[RepairStep] = field(default_factory=list)
    after: CheckedSet | None = None
    accepts_loss: bool = False  # of dirty data
    is_done: bool = False
    _seen: Sequence[BlockDevice] = ()
    _view: list[BlockDevice] = field(default_factory=list)
    _node_read: NodeRead = count_nothing  # while it is planned

    @classmethod
    async def of(
        cls,
        devices: Sequence[BlockDevice],
        seen: Sequence[BlockDevice] | None = None,
        node_read: NodeRead = count_nothing,
        *,
        may_lack_members: bool = False,
    ) -> "Repair":
        """Returns a repair without steps. Raises SetRefused if members are missing, and may not be.

        Seen are the devices as they are to be read: a copy lacks what its map says.
        """
        seen = devices if seen is None else seen
        try:
            checked = await _check(seen, node_read)
        except SetRefused as error:
            if not may_lack_members:
                raise
            checked = CheckedSet()
            checked.findings.report(finding_of(error, MEMBERS_RULE, Severity.FATAL, "what only they have"))
        return cls(devices, checked, _seen=seen, _view=list(seen), _node_read=node_read)

    @property
    def view(self) -> Sequence[BlockDevice]:
        """The devices as the steps so far will leave them."""
        return self._view

    @property
    def is_needed(self) -> bool:
        """Whether any step writes anything."""
        return any(step.is_needed for step in self.steps)

    @property
    def found(self) -> CheckedSet:
        """What is found now, or with the steps."""
        return self.after or self.before

    def add(self, step: RepairStep, members: Sequence[MemberFound] | None = None) -> None:
        """Add a step that was planned on the view, with patches of its devices, or of these members."""
        if members is not None:
            step = step.for_devices(members, self._view)
        self.steps.append(step)
        if step.is_needed:
            self._view = list(patched_devices(self._view, step.patches))
            self.after = None

    async def preview(self) -> CheckedSet:
        """Returns what a check will find when the steps are done."""
        if self.after is None:
            self.after = await _check(self._view, self._node_read) if self.is_needed else self.before
        return self.after

    @property
    def obstacle(self) -> str:
        """Why the steps are not done; empty if nothing keeps them from it."""
        if any(step.loses_dirty for step in self.steps) and not self.accepts_loss:
            return "dirty data would be lost, or may be: --give-up-dirty says that it may"
        if any(step.must_end_sound for step in self.steps) and self.found.findings.need_repair:
            return "the set would not be sound afterwards"
        return ""

    async def write(self, undo: UndoLog | None = None, progress: Progress = say_nothing) -> None:
        """Write the steps, and check the devices."""
        assert not self.obstacle
        await Applying(self.devices, undo, progress).run(self.steps)
        if undo is not None:
            await undo.finish()
        self.is_done = True
        self.after = await _check(self._seen)


async def _check(devices: Sequence[BlockDevice], node_read: NodeRead = count_nothing) -> CheckedSet:
    """Returns what a check finds, keys whose data a copy lacks included: zeros are there."""
    checked = await check_set(devices, node_read)
    report_uncopied(checked)
    return checked
