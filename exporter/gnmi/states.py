"""States of a BGP session by their names (RFC 4271, 8.2.2), in capitals."""

from __future__ import annotations

BGP_STATES = {"IDLE": 1.0, "CONNECT": 2.0, "ACTIVE": 3.0, "OPENSENT": 4.0, "OPENCONFIRM": 5.0, "ESTABLISHED": 6.0}
