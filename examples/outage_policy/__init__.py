"""The outage of 2016 as a policy: what must never be committed, tried on a real server."""
