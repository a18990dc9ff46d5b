"""Writes tests/fixtures/golden.safetensors: a two-layer Llama in transformers, float64, on the CPU.

Run: pip install torch transformers safetensors numpy && python golden.py
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(11)
torch.set_default_dtype(torch.float64)
config = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    attn_implementation="eager",
)
model = LlamaForCausalLM(config).double()
with torch.no_grad():
    for parameter in model.parameters():
        # Rounded to float32 first, so that both sides start from the same numbers.
        noise = torch.randn_like(parameter) * 0.25
        parameter.copy_((noise + (1.0 if parameter.dim() == 1 else 0.0)).float().double())

tokens = torch.randint(0, 61, (2, 8))
targets = torch.randint(0, 61, (2, 8))
scales = torch.tensor([0.0, 0.25, 0.5, 0.125, 1.0, 0.0, 0.75, 0.5] * 2)
logits = model(tokens).logits
losses = torch.nn.functional.cross_entropy(logits.reshape(-1, 61), targets.reshape(-1), reduction="none")
loss = (losses * scales.reshape(-1)).sum()
loss.backward()

out = {
    "tokens": tokens.numpy(),
    "targets": targets.numpy(),
    "scales": scales.numpy(),
    "logits": logits.detach().numpy(),
    "loss": loss.detach().reshape(1).numpy(),
}
for name, parameter in model.named_parameters():
    out[f"weight.{name}"] = parameter.detach().numpy()
    out[f"grad.{name}"] = parameter.grad.numpy()
target = Path(__file__).parent.parent / "fixtures" / "golden.safetensors"
save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in out.items()}, target)
print(target, target.stat().st_size, "bytes, loss", float(loss))
