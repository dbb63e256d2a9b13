# Made by scripts/sync_client.py of _async/__init__.py; not edited by hand.
"""The client; `_sync` is made of it by `scripts/sync_client.py`."""
