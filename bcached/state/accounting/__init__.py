"""What lies in which bucket: live sectors, gc marks, ownership, and the invariants over all of them."""
