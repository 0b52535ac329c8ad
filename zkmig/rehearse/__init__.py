"""Rehearse: a plan carried out and taken back on a throw-away server that holds its target's tree."""
