"""Named scenarios: one thing goes wrong on a fresh lab while everything measures, and the truth is written beside.

``catalogue`` knows them by name; ``scene`` is what a scenario may use; ``runner`` plays one inside a sandbox
and leaves a directory of files in the contracts' formats, so that it can be replayed offline.
"""
