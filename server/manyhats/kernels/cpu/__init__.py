"""The backend for CPUs: a small C library whose calls compute all adapters at a site."""
