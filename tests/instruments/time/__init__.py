# SPDX-License-Identifier: GPL-2.0-only
"""Virtual time, and every point at which a task is resumed."""
