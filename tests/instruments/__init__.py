# SPDX-License-Identifier: GPL-2.0-only
"""Small real devices that watch or fail, for the tests of every room that writes to one."""
