"""What the operator declares: what part of a tree is meant, and as what it is to arrive. Values and pure functions."""
