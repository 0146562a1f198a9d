"""Is the right component named, soon, and nothing else: simulated faults put to ``diagnose`` and to simpler methods."""
