"""This repository's choices for gateways."""

# Connections to instances are kept open between requests: without this the kernel forgets their speed when idle.
sysctls = {"net.ipv4.tcp_slow_start_after_idle": "0"}
