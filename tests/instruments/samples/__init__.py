# SPDX-License-Identifier: GPL-2.0-only
"""Sets, images and values to begin a test with."""
