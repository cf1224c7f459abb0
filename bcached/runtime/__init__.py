# SPDX-License-Identifier: GPL-2.0-only
"""A running set: the lock, the conditions, the tasks, and the queues of waiters.

Tasks take their decisions from state/, do I/O through store/, and reach each other only through shared.py.
lifetime.py opens a set, runs its tasks, and stops it.
"""
