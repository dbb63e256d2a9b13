"""Our own adapter folders: `manyhats.json` + `weights.safetensors`, for methods that no library has a format for.

The same `manyhats.json` with the format `manyhats-task/1` accompanies another library's files and says what those
cannot: labels, template, the backbone's digest.
"""
