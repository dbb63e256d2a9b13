"""Where the registry's metadata is kept: one module a kind of database, behind one protocol (`base.py`)."""
