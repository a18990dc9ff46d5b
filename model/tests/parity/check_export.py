"""Loads an exported model and its tokenizer in transformers and compares logits with ours.

Run: CORPUSMITH_TRAIN_OUT=/tmp/run cargo test --release -p corpusmith-model --test sample_run
     python check_export.py /tmp/run
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

root = Path(sys.argv[1])
expected = json.loads((root / "expected.json").read_text())
model = AutoModelForCausalLM.from_pretrained(root / "export")
tokenizer = AutoTokenizer.from_pretrained(root / "export")
tokens = torch.tensor([expected["tokens"]])
with torch.no_grad():
    logits = model(tokens).logits[0]
ours = torch.tensor(expected["logits"]).reshape(logits.shape)
difference = float((logits - ours).abs().max())
same_top = bool((logits.argmax(-1) == ours.argmax(-1)).all())
text = tokenizer.decode(expected["tokens"])
again = tokenizer(text)["input_ids"]
print(f"transformers {transformers.__version__}, torch {torch.__version__}, {type(tokenizer).__name__}, {model.dtype}")
print(f"largest logit difference {difference:.2e} of logits up to {float(logits.abs().max()):.1f}, same top token everywhere: {same_top}")
print(f"tokens equal after decoding and encoding: {again == expected['tokens']}, digits: {tokenizer.tokenize('1984 a')}")
assert difference < 1e-4 and same_top and again == expected["tokens"]
assert tokenizer.eos_token_id == 0 and tokenizer.tokenize("1984")[0] == "1"
