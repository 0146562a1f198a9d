"""The fabric in a box: namespaces, real routing, real counters, real faults, on one machine."""
