"""One side of a comparison, in the environment whose Python runs it: loads, says `ready`, and runs once for each line.

    python worker.py SIDE ARGUMENTS

ARGUMENTS: a JSON file with the base model's folder, the adapters' folders, and the token ids of the inputs. Input i
belongs to adapter i modulo their number. Each run answers with its seconds. Only the side `ours` imports Manyhats.
"""

import json
import sys
import time
from pathlib import Path

import torch


def padded(inputs):
    longest = max(map(len, inputs))
    ids = torch.zeros(len(inputs), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(inputs):
        ids[row, : len(one)] = torch.tensor(one)
        mask[row, : len(one)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def ours(given):
    """This engine, over PEFT's or AdapterHub's files."""
    from manyhats.backbone import Backbone
    from manyhats.engine.forward import forward
    from manyhats.engine.forward_input import ForwardInput
    from manyhats.formats.reader import read_adapter
    from manyhats.methods.plan import in_batch_order

    backbone = Backbone.load(given["base"], device="cpu", dtype="float32")
    adapters = [read_adapter(Path(path), backbone).bind(backbone) for path in given["adapters"]]
    rows = [ForwardInput(ids, [0] * len(ids), adapters[i % len(adapters)]) for i, ids in enumerate(given["inputs"])]
    rows = in_batch_order(rows, lambda row: row.adapter)
    return lambda: forward(backbone, rows)


def polylora(given):
    """PolyLoRA, which runs its plain torch on a CPU."""
    from polylora import PolyLoraConfig, PolyLoraModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(given["base"], num_labels=3)
    count = len(given["adapters"])
    config = PolyLoraConfig(max_gpu_adapters=count + 1, max_rank=8, target_modules=["query", "key", "value", "dense"])
    model = PolyLoraModel(base, config).eval()
    for i, path in enumerate(given["adapters"]):
        model.load_adapter_from_disk(str(i), path)
    batch = padded(given["inputs"])
    names = [str(i % count) for i in range(len(given["inputs"]))]
    return lambda: model(**batch, adapter_ids=names)


def adapterhub(given):
    """AdapterHub's BatchSplit, whose rows are sorted by adapter."""
    import adapters.composition as composition
    from adapters import AutoAdapterModel

    model = AutoAdapterModel.from_pretrained(given["base"])
    count = len(given["adapters"])
    names = [
        model.load_adapter(path, load_as=f"a{i}", with_head=False, use_safetensors=True)
        for i, path in enumerate(given["adapters"])
    ]
    by_adapter = [given["inputs"][i::count] for i in range(count)]
    batch = padded([one for own in by_adapter for one in own])
    model.active_adapters = composition.BatchSplit(*names, batch_sizes=[len(own) for own in by_adapter])
    model.eval()
    return lambda: model.base_model(**batch)


def make_houlsby(given):
    """Writes adapters as AdapterHub saves them, with random weights that change the output; nothing to run."""
    from adapters import AutoAdapterModel, DoubleSeqBnConfig

    model = AutoAdapterModel.from_pretrained(given["base"])
    for i, path in enumerate(given["adapters"]):
        model.add_adapter(f"a{i}", config=DoubleSeqBnConfig(reduction_factor=16))
        generator = torch.Generator().manual_seed(i)
        for name, parameter in model.named_parameters():
            if f".a{i}." in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
        Path(path).mkdir(parents=True)
        model.save_adapter(path, f"a{i}", use_safetensors=True)
        model.delete_adapter(f"a{i}")
    return lambda: None


def main():
    given = json.loads(Path(sys.argv[2]).read_text())
    with torch.inference_mode():
        run = {one.__name__: one for one in (ours, polylora, adapterhub, make_houlsby)}[sys.argv[1]](given)
        run()
        print("ready", flush=True)
        for _ in sys.stdin:
            begin = time.perf_counter()
            run()
            print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
