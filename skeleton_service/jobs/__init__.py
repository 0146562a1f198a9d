"""Which jobs run, by what a scheduler says."""
