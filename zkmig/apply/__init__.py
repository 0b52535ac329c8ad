"""Carrying a plan out under an epoch: journal, drain, write, verify, commit; and the ways back."""
