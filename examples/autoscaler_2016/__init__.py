"""The outage of 2016, and the same night with the autoscaler behind `zkmig guard`."""
