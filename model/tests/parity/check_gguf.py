"""Reads our GGUF files with llama.cpp's own Python reader and loads them in transformers, and compares logits with
those of our training network.

Run: CORPUSMITH_TRAIN_OUT=/tmp/run cargo test --release -p corpusmith-model --test sample_run
     pip install torch transformers accelerate gguf && python check_gguf.py /tmp/run
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM

root = Path(sys.argv[1])
expected = json.loads((root / "expected.json").read_text())
tokens = torch.tensor([expected["tokens"]])
most = {"f32": 1e-3, "f16": 2e-2, "q8_0": 0.15, "q4_0": 3.0, "q4_1": 3.0, "q4_k_m": 1.5}
for name, limit in most.items():
    file = f"model-{name}.gguf"
    reader = GGUFReader(root / file)
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    config = AutoConfig.from_pretrained(root, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(root, gguf_file=file, dtype=torch.float32)
    with torch.no_grad():
        logits = model(tokens).logits[0]
    ours = torch.tensor(expected["logits"]).reshape(logits.shape)
    difference = float((logits - ours).abs().max())
    same = float((logits.argmax(-1) == ours.argmax(-1)).float().mean())
    print(f"{file}: {dict(kinds)}, largest logit difference {difference:.4f} of {float(ours.abs().max()):.1f}, top token alike {same:.0%}")
    assert difference < limit, (name, difference)
    assert (config.num_key_value_heads, config.rope_theta if hasattr(config, "rope_theta") else 1e4) == (3, 10000.0)
