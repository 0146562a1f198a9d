"""``fabric-exporter probe``: the prober of exporter.probing in the hands of a person, as mtr and fping are."""
