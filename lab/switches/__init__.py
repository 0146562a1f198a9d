"""Simulated switches that answer SNMP v2c over UDP, from a recorded walk or a generated one."""
