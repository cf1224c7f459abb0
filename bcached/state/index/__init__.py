"""The btree in memory. Knows no buckets and no sectors."""
