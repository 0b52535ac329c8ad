"""What a sound tree looks like, judged: pure functions over snapshots."""
