"""The client's decisions: calls to bytes, answers to results, and what each step asks for."""
