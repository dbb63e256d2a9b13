"""The data that the engine works on: requests, sequences and scheduled batches, and which thread sets each field."""
