# SPDX-License-Identifier: GPL-2.0-only
"""The tasks of a running set, one file per task."""
