"""Planning: from a diff to operations in order, in batches, in a file."""
