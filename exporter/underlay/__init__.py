"""The way that an overlay's probes take through the fabric: outer tuples learnt on the host, then traced from it."""
