# SPDX-License-Identifier: GPL-2.0-only
"""The daemon as a process, killed or cut off again and again: nothing that it promised may be lost."""
