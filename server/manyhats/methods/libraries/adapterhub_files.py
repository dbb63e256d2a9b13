"""The names of AdapterHub's configs, without torch: whoever only picks an upload's files may not have it."""

CONFIG = "adapter_config.json"
FUSION_CONFIG = "adapter_fusion_config.json"
