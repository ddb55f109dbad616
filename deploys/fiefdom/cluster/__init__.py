"""All hosts together: what gateways say, members, keys, the lock, the audit, the status."""
