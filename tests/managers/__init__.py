"""Service managers that people really use, run for tests, and a service whose life they are to keep within bounds."""
