"""What stands before the routes: which hosts and pages may ask, and how paths, methods and bodies are read."""
