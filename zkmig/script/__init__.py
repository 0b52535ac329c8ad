"""Migration scripts: changes to a tree, written in Python against a draft of it, each for one epoch."""
