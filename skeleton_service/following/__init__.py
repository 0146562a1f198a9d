"""``diagnose --follow``: failures as they come and go."""
