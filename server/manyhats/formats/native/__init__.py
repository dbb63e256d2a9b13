"""Our own adapter folders: `manyhats.json` + `weights.safetensors`, for what no library has a format for.

The same `manyhats.json` with the format `manyhats-task/1` stands beside another library's files and says what those
have no place for: labels, template, the backbone's digest.
"""
