"""The checks. Each is a function of one rule; ``RULE_CHECKS`` and ``GROUP_CHECKS`` are all there are."""
