"""The revisions; each is the number of the schema that it leads to."""
