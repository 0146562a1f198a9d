"""The files and names that cross a boundary: pure data, no I/O beyond reading and writing a file.

This package is the leaf of the import graph: it imports nothing else of the project and no heavy
library, because every process of the exporter loads it.
"""
