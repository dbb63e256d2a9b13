"""A server under load for long, every answer compared with the one computed alone."""
