"""Training jobs: drawn, scheduled, simulated, and really moving bytes."""
