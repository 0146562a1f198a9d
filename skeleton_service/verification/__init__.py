"""What the network is, held against what it is meant to be."""
