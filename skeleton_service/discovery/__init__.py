"""A topology from what switches see of each other."""
