"""Counters that veth does not have: the one simulated part of the lab (docs/lab-counters.md says what and how)."""
