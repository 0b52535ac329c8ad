"""Guard: a process that knows nothing of epochs runs only while its scope is STABLE."""
