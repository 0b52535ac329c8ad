"""The migration epoch: its record, its states, who may write, and what undo needs."""
