"""Answers requests: from a task's name and texts to answers, with the registry and the engine."""
