"""The names of AdapterHub's config files. Does not import torch, which clients that select an upload's files may
lack."""

CONFIG = "adapter_config.json"
FUSION_CONFIG = "adapter_fusion_config.json"
