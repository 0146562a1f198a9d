"""Which way the probes of a flow take: walks with a growing hop limit, and the routes they find."""
