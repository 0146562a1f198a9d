"""Switches that stream what they count over gNMI: an optional process, with the extra ``gnmi``."""
