# SPDX-License-Identifier: GPL-2.0-only
"""Images of sets changed at random, structure by structure: `python -m tests.fuzz`, or `make fuzz`.

What a check says of an image and what an opening does with it must agree: fatal is what is refused. And a set
that opens lives: no violation, no error that is not one of ours, and nothing is worse afterwards. A case is
named BASE:SEED, and is the same every time.
"""
