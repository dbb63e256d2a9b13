"""Importing this raises an error where torch or transformers is not supported.

The package imports it before all else, so that no module which relies on these libraries runs with others.
"""

from manyhats.supported import require

require()
