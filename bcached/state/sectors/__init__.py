"""Sectors for clients, cut from open buckets, and the reservations that hold them."""
