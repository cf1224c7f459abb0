# SPDX-License-Identifier: GPL-2.0-only
"""The configuration: files, checks, and the options made from it."""
