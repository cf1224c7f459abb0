"""Repair of a set on its devices, in steps that its owner asks for."""
