"""The REST interface: FastAPI, one module for each group of routes."""
