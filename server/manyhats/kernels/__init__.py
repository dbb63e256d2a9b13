"""What all tasks of a batch do at one site, in one call: protocols, and the backends that implement them."""
