"""Training: `manyhats train` makes an adapter with the very forward pass that serves it."""
