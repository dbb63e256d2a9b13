"""Measurements: what tasks and HTTP cost beyond the bare backbone. `manyhats bench`, and the project's own targets."""
