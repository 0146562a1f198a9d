"""The path MTU of paths that no longer pass the packets they promise."""
