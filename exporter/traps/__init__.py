"""Traps and informs of switches (SNMP v2c and v3): received, judged and counted by a process of their own."""
