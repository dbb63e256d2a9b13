"""Answers requests: from a task's name and texts to answers, over the registry and the engine."""
