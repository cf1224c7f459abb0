# SPDX-License-Identifier: GPL-2.0-only
"""What each bucket holds: live sectors, gc marks, ownership, and the invariants over all of them."""
