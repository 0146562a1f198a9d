"""TCP probes: the handshake and its echo, and who answers them."""
