# SPDX-License-Identifier: MIT
"""bcached: Linux bcache's bucket allocator as a userspace service."""

__version__ = "0.1.0"
