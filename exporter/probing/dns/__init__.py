"""DNS probes: messages, and the prober that sends them."""
