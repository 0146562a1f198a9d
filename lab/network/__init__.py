"""The fabric itself: drawn, built, routed, with its overlay, second site and resolver."""
