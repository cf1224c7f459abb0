# SPDX-License-Identifier: GPL-2.0-only
"""The state of the set in memory, and every decision about it.

Rules of the room: no async, no I/O, no clock and no global random. Time and randomness come in as
arguments, so each run can be reproduced. A function runs to its end without suspending, and a decision
returns what is to be done instead of doing it.
"""
