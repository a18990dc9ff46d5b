"""The embedded engine beside llama.cpp: same file, prompts, threads and greedy choice, in turns.

    pip install llama-cpp-python==0.3.36 numpy        (compiles llama.cpp; needs cmake, which pip brings)
    python model/benches/peers/beside_llama_cpp.py

Prompts are read in batches of 512 tokens, decoding advances all sequences by one token a call; llama.cpp's
figures are those of its fastest of ROUNDS runs, as ours are. Both also by processor time, which other work
on the machine hardly moves.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time

import llama_cpp as api

ROUNDS = 3
THREADS = int(os.environ.get("CORPUSMITH_BENCH_THREADS", os.cpu_count()))
SHAPES = [(1, 512, 128), (8, 128, 128), (32, 300, 300)]
ASSETS = os.environ.get("CORPUSMITH_ASSETS", os.path.expanduser("~/.cache/corpusmith/assets"))
MODEL = os.path.join(ASSETS, "SmolLM2-135M-Instruct.Q4_1.gguf")
OURS = os.environ.get("CORPUSMITH_BENCH", "cargo bench -q -p corpusmith-model --bench infer --").split()


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work):
    start, cpu = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start, processor_seconds() - cpu


class Peer:
    def __init__(self, sequences, prompt, new):
        self.shape = sequences, prompt, new
        params = api.llama_context_default_params()
        params.n_ctx = sequences * (prompt + new + 64)
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = THREADS
        self.context = api.llama_init_from_model(MODEL_HANDLE, params)
        self.batch = api.llama_batch_init(512, 0, 1)
        self.sampler = api.llama_sampler_init_greedy()

    def feed(self, items):
        """Runs (token, position, sequence, wants logits)."""
        for index, (token, position, sequence, wanted) in enumerate(items):
            self.batch.token[index] = token
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = sequence
            self.batch.logits[index] = wanted
        self.batch.n_tokens = len(items)
        assert api.llama_decode(self.context, self.batch) == 0

    def prompts(self):
        sequences, prompt, _ = self.shape
        self.last = [0] * sequences
        todo = [
            (1000 + 37 * sequence + 101 * i % 20011, i, sequence, i == prompt - 1)
            for sequence in range(sequences)
            for i in range(prompt)
        ]
        for first in range(0, len(todo), 512):
            part = todo[first : first + 512]
            self.feed(part)
            for index, (_, _, sequence, wanted) in enumerate(part):
                if wanted:
                    self.last[sequence] = api.llama_sampler_sample(self.sampler, self.context, index)

    def decode(self):
        sequences, prompt, new = self.shape
        for step in range(new - 1):
            self.feed([(self.last[s], prompt + step, s, True) for s in range(sequences)])
            self.last = [api.llama_sampler_sample(self.sampler, self.context, s) for s in range(sequences)]

    def run(self):
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        read, written = timed(self.prompts), timed(self.decode)
        sequences, prompt, new = self.shape
        tokens = [sequences * prompt, sequences * (new - 1)]
        return [tokens[0] / read[0], tokens[1] / written[0], tokens[0] / read[1], tokens[1] / written[1]]


def ours(shape):
    command = OURS + [",".join(map(str, shape)), "--json"]
    environment = dict(os.environ, CORPUSMITH_BENCH_THREADS=str(THREADS))
    lines = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    (line,) = [line for line in lines.splitlines() if line.startswith("{")]
    figures = json.loads(line)
    return [figures[key] for key in ("prompt", "decode", "prompt_cpu", "decode_cpu")]


quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
api.llama_log_set(quiet, ctypes.c_void_p(0))
api.llama_backend_init()
MODEL_HANDLE = api.llama_model_load_from_file(MODEL.encode(), api.llama_model_default_params())
print(f"llama-cpp-python {api.__version__}, {THREADS} threads; tokens/s (a processor second)")
print("| sequences × (prompt + new) | | ours | llama.cpp | ratio |\n|---|---|---|---|---|")
shapes = [tuple(map(int, a.split(","))) for a in sys.argv[1:]] or SHAPES
for shape in shapes:
    peer, mine, theirs = Peer(*shape), [0.0] * 4, [0.0] * 4
    for _ in range(ROUNDS if shape[0] < 32 else 1):
        mine = [max(pair) for pair in zip(mine, ours(shape))]
        theirs = [max(pair) for pair in zip(theirs, peer.run())]
    for index, name in enumerate(("prompt", "decode")):
        a, b, a_cpu, b_cpu = mine[index], theirs[index], mine[index + 2], theirs[index + 2]
        print(
            f"| {shape[0]} × ({shape[1]} + {shape[2]}) | {name} | {a:.0f} ({a_cpu:.0f}) | {b:.0f} ({b_cpu:.0f}) "
            f"| {a / b:.2f} ({a_cpu / b_cpu:.2f}) |",
            flush=True,
        )
