"""Writes tests/fixtures/golden.safetensors: tiny Llamas in transformers, float64, on the CPU, with their losses
and all their gradients.

The cases differ in how many query heads share a key head, in whether the embedding is also the output layer, and
in what a row holds: one sequence, or several documents that must not see each other (positions restart).

Run: pip install torch transformers safetensors numpy && python golden.py
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

# name: (hidden, intermediate, layers, heads, kv_heads, tied, rows of document lengths)
CASES = {
    "grouped_tied": (16, 24, 2, 4, 2, True, [[8], [8]]),
    "grouped_untied": (24, 20, 1, 6, 2, False, [[8], [8]]),
    "equal_untied": (16, 20, 1, 4, 4, False, [[8], [8]]),
    "single_tied": (16, 20, 1, 4, 1, True, [[8], [8]]),
    "documents": (16, 24, 2, 4, 2, True, [[3, 1, 7, 5]]),
}
VOCAB = 37

torch.set_default_dtype(torch.float64)
out = {}
for seed, (case, (hidden, inner, layers, heads, kv_heads, tied, rows)) in enumerate(CASES.items()):
    torch.manual_seed(11 + seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            # Rounded to float32 first, so that both sides start from the same numbers.
            noise = torch.randn_like(parameter) * 0.25
            parameter.copy_((noise + (1.0 if parameter.dim() == 1 else 0.0)).float().double())

    length = sum(rows[0])
    tokens = torch.randint(0, VOCAB, (len(rows), length))
    targets = torch.randint(0, VOCAB, (len(rows), length))
    scales = torch.tensor([0.0, 0.25, 0.5, 0.125, 1.0, 0.0, 0.75, -0.5] * 2)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    document = torch.stack([torch.cat([torch.full((n,), i) for i, n in enumerate(row)]) for row in rows])
    seen = (document[:, :, None] == document[:, None, :]) & torch.ones(length, length).tril().bool()
    mask = torch.where(seen, 0.0, torch.finfo(torch.float64).min)[:, None]
    logits = model(tokens, attention_mask=mask, position_ids=positions).logits
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, VOCAB), targets.reshape(-1), reduction="none"
    )
    loss = (losses * scales).sum()
    loss.backward()

    values = {
        "shape": torch.tensor([VOCAB, hidden, inner, layers, heads, kv_heads, int(tied)]),
        "bounds": torch.cumsum(torch.tensor([0] + [n for row in rows for n in row]), 0),
        "tokens": tokens,
        "targets": targets,
        "scales": scales,
        "logits": logits,
        "loss": loss.reshape(1),
    }
    for name, parameter in model.named_parameters():
        values[f"weight.{name}"] = parameter
        values[f"grad.{name}"] = parameter.grad
    out |= {f"{case}.{name}": value.detach().numpy() for name, value in values.items()}
    print(case, "loss", float(loss))
target = Path(__file__).parent.parent / "fixtures" / "golden.safetensors"
save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in out.items()}, target)
print(target, target.stat().st_size, "bytes")
