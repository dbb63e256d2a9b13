"""Keeps what libraries say of each other while they are imported out of the log.

transformers imports torchao wherever that is installed, which then warns of extensions that this build of torch cannot
load, and of its own use of torch; nothing of it is for who runs a server. Errors are still written.
"""

import logging

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
