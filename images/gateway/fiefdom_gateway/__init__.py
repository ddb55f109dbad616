"""The gateway container: keeps HAProxy's servers equal to what the cluster's members offer."""
