"""Adapters from elsewhere: a hub, an object store, a folder of this machine; where the operator allows it."""
