"""Where the annotations of alerts lead unless told otherwise. Apart, so that --help says it without loading Jinja."""

from __future__ import annotations

DOCS = "https://github.com/fabric-skeleton/fabric-skeleton/blob/main/docs"
RUNBOOKS = f"{DOCS}/runbooks"
GRAFANA = "http://localhost:3000"
