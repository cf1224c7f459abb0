"""Devices that record, fail or delay what passes through them."""
