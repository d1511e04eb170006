"""Stands in for the packages that code written for other servers imports. `runtimes` calls it."""
