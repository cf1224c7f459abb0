# SPDX-License-Identifier: GPL-2.0-only
"""How the tasks and requests of a set coordinate: lock and conditions, the wait queue, schedules, slices."""
