"""The outage of 2016-08-11 on real servers: two autoscalers read a registry while it is migrated."""
