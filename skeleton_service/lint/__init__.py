"""A linter of Prometheus rule files for users of this project's metrics: text in, problems out.

``rulefile`` reads YAML and keeps the place of every character, ``tokens`` and ``parsing`` read PromQL with the place
of every token, ``series`` knows metrics and their labels, each module of ``checks`` holds checks of one kind, and
``report`` prints. Only ``command`` touches files and the terminal.
"""
