"""One module a method: config, checks, how it acts, how it is trained, and how libraries store it."""
