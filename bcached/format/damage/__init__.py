# SPDX-License-Identifier: GPL-2.0-only
"""What is behind a wrong checksum: a wrong bit, an entry that was cut off, or the end of what is valid."""
