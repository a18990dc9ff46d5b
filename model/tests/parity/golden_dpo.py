"""Writes tests/fixtures/golden_dpo.safetensors: the DPO loss of three pairs, its figures and all its gradients, by
torch in float64, for a tiny Llama in transformers.

The formulas are those of huggingface/trl, trl/trainer/dpo_trainer.py (loss_type="sigmoid", no label smoothing):
log-probabilities summed over the completion, losses = -logsigmoid(beta * (log-ratio - reference log-ratio)), their
mean; rewards = beta * (policy - reference).

Run: pip install torch transformers safetensors numpy && python golden_dpo.py
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, BETA = 37, 0.3
# Tokens of each prompt, its better and its worse answer.
PAIRS = [(5, 4, 6), (2, 7, 1), (9, 3, 3)]

torch.set_default_dtype(torch.float64)
torch.manual_seed(5)
config = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    attn_implementation="eager",
)


def model(scale):
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * scale
            parameter.copy_((noise + (1.0 if parameter.dim() == 1 else 0.0)).float().double())
    return model


def log_probability(model, prompt, answer):
    tokens = torch.cat([prompt, answer])[None]
    logits = model(tokens[:, :-1]).logits.log_softmax(-1)
    each = torch.gather(logits, 2, tokens[:, 1:, None])[0, :, 0]
    return each[len(prompt) - 1 :].sum()


policy, reference = model(0.25), model(0.25)
out = {"beta": torch.tensor([BETA])}
losses, rows = [], []
for pair, (prompt, chosen, rejected) in enumerate(PAIRS):
    prompt, chosen, rejected = (torch.randint(0, VOCAB, (n,)) for n in (prompt, chosen, rejected))
    out |= {f"{pair}.prompt": prompt, f"{pair}.chosen": chosen, f"{pair}.rejected": rejected}
    now = [log_probability(policy, prompt, answer) for answer in (chosen, rejected)]
    with torch.no_grad():
        before = [log_probability(reference, prompt, answer) for answer in (chosen, rejected)]
    logits = (now[0] - now[1]) - (before[0] - before[1])
    losses.append(-torch.nn.functional.logsigmoid(BETA * logits))
    rewards = [BETA * (a - b).detach() for a, b in zip(now, before)]
    rows.append(torch.stack([*now, *before, *rewards, losses[-1]]).detach())
loss = torch.stack(losses).mean()
loss.backward()
# policy chosen, policy rejected, reference chosen, reference rejected, rewards, loss.
out["rows"] = torch.stack(rows)
out["loss"] = loss.reshape(1)
for name, parameter in policy.named_parameters():
    out[f"weight.{name}"] = parameter
    out[f"grad.{name}"] = parameter.grad
for name, parameter in reference.named_parameters():
    out[f"reference.{name}"] = parameter
values = {name: np.ascontiguousarray(value.detach().numpy(), dtype=np.float32) for name, value in out.items()}
target = Path(__file__).parent.parent / "fixtures" / "golden_dpo.safetensors"
save_file(values, target)
print(target, target.stat().st_size, "bytes, loss", float(loss))
print(out["rows"])
