"""Drawn faults of hosts at drawn moments, while a pod of network namespaces generates or trains."""
