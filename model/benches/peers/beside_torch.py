"""Training steps beside PyTorch, eager and compiled: same shapes, weights, tokens and threads, in turns.

usage: beside_torch.py FOLDER [SHAPE…]         (`make bench-train` sets it up)

A SHAPE is `preset[:layers]/sequences x context`; the default is a SmolLM-135M of 4 layers and the whole one,
both at 2 x 512. Every side runs in a process of its own, which makes one step on request; the steps alternate,
so that a busy or throttled machine hits all alike. Of ROUNDS steps a side, after WARM_UP, the fastest
counts: by the clock, and by processor time of all threads. PyTorch's step is what it offers best on a CPU:
scaled_dot_product_attention, fused AdamW, clip_grad_norm_. All losses must agree.

The peak of the machine is the fastest product either side made in the same run.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

ROUNDS = int(os.environ.get("CORPUSMITH_BENCH_ROUNDS", 5))
WARM_UP = 2
THREADS = [int(n) for n in os.environ.get("CORPUSMITH_BENCH_THREADS", "1,2").split(",")]
OURS = os.environ.get("CORPUSMITH_BENCH", "cargo bench -q -p corpusmith-model --bench train_peers --").split()
SHAPES = ["135m:4/2x512", "135m/2x512"]


def processor_seconds():
    """Of all threads, by the scheduler's account: getrusage counts in ticks."""
    used = 0
    for task in os.listdir("/proc/self/task"):
        try:
            used += int(pathlib.Path(f"/proc/self/task/{task}/schedstat").read_text().split()[0])
        except OSError:
            pass
    return used / 1e9


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def torch_side(shape, sequences, context, threads, mode, folder):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    hidden, inner, heads, kv_heads = {
        "135m": (576, 1536, 9, 3),
        "360m": (960, 2560, 15, 5),
        "1.7b": (2048, 8192, 32, 32),
        "sample": (192, 512, 3, 3),
    }[shape.split(":")[0]]
    dim = hidden // heads
    flat = torch.from_file(str(folder / "init.f32"), size=(folder / "init.f32").stat().st_size // 4)
    weights = {}
    for name, size, start in json.loads((folder / "layout.json").read_text()):
        count = 1
        for extent in size:
            count *= extent
        weights[name] = torch.nn.Parameter(flat[start : start + count].view(size).clone())
    del flat
    layers = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    vocab = weights["model.embed_tokens.weight"].shape[0]
    count = sequences * context
    numbers = [(i * 2_654_435_761 % 2**32) % vocab for i in range(count + 1)]
    tokens = torch.tensor(numbers[:-1]).view(sequences, context)
    targets = torch.tensor(numbers[1:])
    angles = torch.outer(torch.arange(context, dtype=torch.float64), 10_000.0 ** (-torch.arange(0, dim, 2) / dim))
    cos, sin = angles.cos().float(), angles.sin().float()

    def rope(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def loss_of():
        x = F.embedding(tokens, weights["model.embed_tokens.weight"])
        for layer in range(layers):
            at = lambda name: weights[f"model.layers.{layer}.{name}.weight"]
            normed = F.rms_norm(x, (hidden,), at("input_layernorm"), 1e-5)
            split = lambda name, n: F.linear(normed, at(f"self_attn.{name}")).view(sequences, context, n, dim).transpose(1, 2)
            q, k, v = rope(split("q_proj", heads)), rope(split("k_proj", kv_heads)), split("v_proj", kv_heads)
            k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(seen.transpose(1, 2).reshape(sequences, context, hidden), at("self_attn.o_proj"))
            normed = F.rms_norm(x, (hidden,), at("post_attention_layernorm"), 1e-5)
            x = x + F.linear(F.silu(F.linear(normed, at("mlp.gate_proj"))) * F.linear(normed, at("mlp.up_proj")), at("mlp.down_proj"))
        x = F.rms_norm(x, (hidden,), weights["model.norm.weight"], 1e-5)
        return F.cross_entropy(F.linear(x, weights["model.embed_tokens.weight"]).view(count, vocab), targets)

    if mode == "compile":
        loss_of = torch.compile(loss_of)
    parameters = list(weights.values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    def gemm():
        a, b = torch.full((1024, 1024), 0.5), torch.full((2048, 1024), 0.25)
        work, best = 2 * 1024 * 1024 * 2048 / 1e9, [0.0, 0.0]
        for _ in range(6):
            wall, cpu = time.perf_counter(), processor_seconds()
            for _ in range(4):
                torch.mm(a, b.t())
            best[0] = max(best[0], 4 * work / (time.perf_counter() - wall))
            best[1] = max(best[1], 4 * work / (processor_seconds() - cpu))
        return {"gflops_wall": best[0], "gflops_cpu": best[1]}

    print(json.dumps({"ready": True, "parameters": sum(p.numel() for p in parameters)}), flush=True)
    for command in map(str.strip, sys.stdin):
        answer = {}
        if command == "step":
            wall, cpu = time.perf_counter(), processor_seconds()
            loss = step()
            answer = {"wall": time.perf_counter() - wall, "cpu": processor_seconds() - cpu, "loss": loss, "peak": peak_bytes()}
        elif command == "gemm":
            answer = gemm()
        elif command == "reset":
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        print(json.dumps(answer), flush=True)


class Side:
    def __init__(self, command, threads):
        env = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ready = json.loads(self.process.stdout.readline())

    def ask(self, command):
        print(command, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(folder, spec, threads):
    shape, size = spec.split("/")
    sequences, context = size.split("x")
    arguments = [shape, sequences, context, str(threads)]
    python = [sys.executable, __file__, "--side"]
    sides = {"ours": Side([*OURS, *arguments, "plain", str(folder)], threads)}
    sides["torch eager"] = Side([*python, *arguments, "eager", str(folder)], threads)
    sides["torch.compile"] = Side([*python, *arguments, "compile", str(folder)], threads)
    parameters = sides["ours"].ready["parameters"]
    assert all(side.ready["parameters"] == parameters for side in sides.values())
    steps = {name: [] for name in sides}
    peak = {"wall": 0.0, "cpu": 0.0}
    for turn in range(WARM_UP + ROUNDS):
        for name, side in sides.items():
            if turn == WARM_UP:
                # What compilation took is not the step's.
                side.ask("reset")
            steps[name].append(side.ask("step"))
            rate = side.ask("gemm") if turn >= WARM_UP and name != "torch.compile" else {}
            for clock in peak:
                peak[clock] = max(peak[clock], rate.get(f"gflops_{clock}", 0.0))
    if os.environ.get("CORPUSMITH_BENCH_PROFILE"):
        sides["ours"].ask("profile")
    for side in sides.values():
        side.close()
    apart = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(steps["ours"], steps["torch eager"]))
    tokens = int(sequences) * int(context)
    layers, hidden = (int(n) for n in (shape_of(folder)))
    # Six operations a parameter and token; six a layer, channel and position: half of the positions are seen,
    # twice (scores and values).
    operations = (6 * parameters + 6 * layers * hidden * int(context)) * tokens
    print(f"\n{spec}, {parameters / 1e6:.1f} M parameters, {threads} thread(s); losses at most {apart:.1e} apart", flush=True)
    print(f"fastest product: {peak['wall']:.0f} GFLOP/s by the clock, {peak['cpu']:.0f} a processor second", flush=True)
    print("| | tokens/s | ratio | of the peak | tokens a processor second | ratio | of the peak | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    best = {name: {clock: min(step[clock] for step in list_[WARM_UP:]) for clock in peak} for name, list_ in steps.items()}
    for name, list_ in steps.items():
        cells = []
        for clock in peak:
            seconds = best[name][clock]
            share = 100 * operations / seconds / 1e9 / peak[clock]
            cells += [f"{tokens / seconds:.0f}", f"{seconds / best['ours'][clock]:.2f}", f"{share:.0f} %"]
        print(f"| {name} | {' | '.join(cells)} | {list_[-1]['peak'] / 2**20:.0f} MiB |", flush=True)
    if apart > 1e-4:
        sys.exit("the losses are not the same: the two sides do not compute the same step")


def shape_of(folder):
    tensors = json.loads((folder / "layout.json").read_text())
    layers = 1 + max(int(name.split(".")[2]) for name, _, _ in tensors if ".layers." in name)
    return layers, tensors[0][1][1]


def main():
    if sys.argv[1] == "--side":
        shape, sequences, context, threads, mode, folder = sys.argv[2:]
        torch_side(shape, int(sequences), int(context), int(threads), mode, pathlib.Path(folder))
        return
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for spec in sys.argv[2:] or SHAPES:
        for threads in THREADS:
            compare(folder, spec, threads)


main()
