"""The btree on its devices: nodes read, written out and replaced."""
