"""What the rule pack says of a healthy lab, of the five incidents, and how soon (docs/alerts-benchmark.md)."""
