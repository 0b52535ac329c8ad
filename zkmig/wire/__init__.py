"""The data plane: ZooKeeper's protocol from bytes (`jute`) over values and a session without I/O to a client."""
