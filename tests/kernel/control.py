# SPDX-License-Identifier: GPL-2.0-only
"""Controls: what has nothing of ours in it must pass, or a "no" would mean nothing."""

from . import images
from .judge import judge
from .lab import Case, Lab, Outcome


def fresh_make_bcache(lab: Lab) -> Outcome:
    """An image straight from make-bcache."""
    path = lab.path("control")
    images.make_bcache(lab.make_bcache_tool, path, 64 << 20, 64 << 10, 512)
    return Outcome.of(judge(lab.machine, path, may_be_fresh=True))


def kernel_again(lab: Lab) -> Outcome:
    """The kernel's own image, registered once more."""
    return Outcome.of(judge(lab.machine, lab.kernel_image))


CONTROLS = (
    Case("control make-bcache", "the kernel accepts an image that make-bcache laid out", fresh_make_bcache),
    Case("control kernel", "the kernel accepts an image that it used itself", kernel_again),
)
