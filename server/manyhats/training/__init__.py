"""Training: `manyhats train` makes an adapter with the forward pass that serves it."""
