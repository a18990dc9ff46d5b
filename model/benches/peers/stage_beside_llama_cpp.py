"""The whole `generate` stage beside llama.cpp: the same prompts, file, longest answer and greedy choice.

    pip install llama-cpp-python==0.3.36 numpy pyarrow        (compiles llama.cpp; needs cmake, which pip brings)
    python model/benches/peers/stage_beside_llama_cpp.py target/release/pipeline runs/cosmopedia_v2/sample/prompts/data

Ours is `pipeline run` of a workflow with one `read` and one `generate` stage, with all that belongs to it: loading
the model, the answer log, Parquet. llama.cpp's is a loop with continuous batching: a sequence that ends makes room
for the next prompt, whose tokens share batches with those that are decoded. It loads its model and makes no files.
"""

import glob
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import llama_cpp as api
import pyarrow.parquet
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

PARALLEL = int(os.environ.get("PARALLEL", 32))
LONGEST = int(os.environ.get("LONGEST", 200))
PROMPTS = int(os.environ.get("PROMPTS", 64))
ASSETS = os.environ.get("CORPUSMITH_ASSETS", os.path.expanduser("~/.cache/corpusmith/assets"))
MODEL = os.path.join(ASSETS, "SmolLM2-135M-Instruct.Q4_1.gguf")
BATCH = 512

WORKFLOW = """
name = "bench"
[stage.prompts]
kind = "read"
paths = ["{prompts}"]
[stage.generate]
kind = "generate"
input = "prompts"
max_new_tokens = {longest}
min_tokens = 0
max_tries = 1
temperature = 0.0
repetition_penalty = 1.0
llm = {{ max_in_flight = {parallel} }}
"""


def ours(pipeline, prompts, folder):
    text = WORKFLOW.format(prompts=prompts, longest=LONGEST, parallel=PARALLEL)
    (folder / "bench.toml").write_text(text)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([pipeline, "run", "bench.toml"], cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    table = pyarrow.parquet.read_table(folder / "runs/bench/sample/generate/data")
    tokens = [sum(table[name].to_pylist()) for name in ("prompt_tokens", "completion_tokens")]
    return wall, used, *tokens


class Peer:
    def __init__(self):
        self.quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self.quiet, None)
        api.llama_backend_init()
        model_params = api.llama_model_default_params()
        # Its AMX kernels crash on virtual machines that show AMX and do not grant it; without extra buffer types
        # it takes those for AVX-512.
        model_params.use_extra_bufts = False
        self.model = api.llama_model_load_from_file(MODEL.encode(), model_params)
        self.vocab = api.llama_model_get_vocab(self.model)
        params = api.llama_context_default_params()
        params.n_ctx = PARALLEL * 1024
        # Else batches of sequences that are read and others that are decoded are cut into equal parts, which is slower.
        params.kv_unified = True
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = PARALLEL
        params.n_threads = params.n_threads_batch = os.cpu_count()
        self.context = api.llama_init_from_model(self.model, params)
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.sampler = api.llama_sampler_init_greedy()
        template = api.llama_model_chat_template(self.model, None).decode()
        self.format = Jinja2ChatFormatter(template=template, eos_token="<|im_end|>", bos_token="<|im_start|>")

    def tokens(self, prompt):
        text = self.format(messages=[{"role": "user", "content": prompt}]).prompt.encode()
        room = (api.llama_token * (len(text) + 8))()
        return room[: api.llama_tokenize(self.vocab, text, len(text), room, len(room), False, True)]

    def run(self, prompts):
        waiting = [self.tokens(prompt) for prompt in reversed(prompts)]
        read, written = sum(map(len, waiting)), 0
        memory = api.llama_get_memory(self.context)
        free, active = list(range(PARALLEL)), {}
        while waiting or active:
            while waiting and free:
                # What is still to be read, how much was, and how many tokens were written.
                active[free.pop()] = [waiting.pop(), 0, 0]
            items = []
            # Sequences that are decoded first: one token each.
            for sequence, state in sorted(active.items(), key=lambda item: len(item[1][0])):
                part = state[0][: BATCH - len(items)]
                state[0] = state[0][len(part) :]
                for index, token in enumerate(part):
                    wanted = not state[0] and index == len(part) - 1
                    items.append((token, state[1] + index, sequence, wanted))
                state[1] += len(part)
                if len(items) == BATCH:
                    break
            for index, (token, position, sequence, wanted) in enumerate(items):
                self.batch.token[index], self.batch.pos[index] = token, position
                self.batch.n_seq_id[index], self.batch.seq_id[index][0] = 1, sequence
                self.batch.logits[index] = wanted
            self.batch.n_tokens = len(items)
            assert api.llama_decode(self.context, self.batch) == 0
            for index, (_, _, sequence, wanted) in enumerate(items):
                if not wanted:
                    continue
                token = api.llama_sampler_sample(self.sampler, self.context, index)
                state = active[sequence]
                state[2] += 1
                written += 1
                if api.llama_vocab_is_eog(self.vocab, token) or state[2] == LONGEST:
                    del active[sequence]
                    free.append(sequence)
                    api.llama_memory_seq_rm(memory, sequence, -1, -1)
                else:
                    state[0] = [token]
        return read, written


def theirs(prompts):
    start, before = time.perf_counter(), time.process_time()
    read, written = Peer().run(prompts)
    return time.perf_counter() - start, time.process_time() - before, read, written


def main():
    pipeline = str(pathlib.Path(sys.argv[1]).resolve())
    files = sorted(glob.glob(os.path.join(sys.argv[2], "*.parquet")))
    table = pyarrow.concat_tables(map(pyarrow.parquet.read_table, files)).slice(0, PROMPTS)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pyarrow.parquet.write_table(table, folder / "prompts.parquet")
        print(f"{table.num_rows} prompts, answers of {LONGEST} tokens at most, {PARALLEL} sequences, {os.cpu_count()} threads")
        rows = {
            "ours, the whole stage": ours(pipeline, folder / "prompts.parquet", folder),
            f"llama-cpp-python {api.__version__}": theirs(table["prompt"].to_pylist()),
        }
    print("| | wall clock, s | processor time, s | tokens read | tokens written | written/s |\n|---|---|---|---|---|---|")
    for who, (wall, used, read, written) in rows.items():
        print(f"| {who} | {wall:.1f} | {used:.1f} | {read:,} | {written:,} | {written / wall:.0f} |")
    first, second = rows.values()
    print(f"tokens written a second, ours to llama.cpp's: {first[3] / first[0] / (second[3] / second[0]):.2f}")


if __name__ == "__main__":
    main()
