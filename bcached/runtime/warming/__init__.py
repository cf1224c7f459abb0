# SPDX-License-Identifier: GPL-2.0-only
"""Clean data of a backing device brought into a set that nothing else uses."""
