"""Sources: where trees are read from, each of them a scope in, a snapshot out. Nothing is imported eagerly."""
