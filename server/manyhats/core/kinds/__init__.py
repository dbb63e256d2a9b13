"""One module a kind of task: head, request parameters, rendering, training, and what the libraries call it."""
