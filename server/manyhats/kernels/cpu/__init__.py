"""The operations for CPUs, as a small C library: one call does all tasks of a site."""
