"""Overlay state: what the host's virtual switches forward, and what of it the RNIC holds."""
