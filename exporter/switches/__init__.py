"""The switch poller process: reads switches over SNMP, each on its own schedule."""
