"""The journal on its devices: the rings, the entries written, the entries read back."""
