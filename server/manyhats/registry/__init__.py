"""Names, versions, aliases and blobs of adapters, and where their weights are."""
