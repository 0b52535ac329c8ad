"""Torture: real servers, readers, migrators, foreign writers and faults, and an independent checker of it all."""
