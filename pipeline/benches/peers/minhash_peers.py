"""Runs datatrove, text-dedup and rensa on documents that the benchmark `minhash_peers` wrote, and prints
a table beside our figures.

usage: minhash_peers.py FOLDER [PEER…]

The peers get the first CORPUSMITH_BENCH_PEER_DOCUMENTS (20000 by default) of the documents, since their
rates do not depend on the number and datatrove needs most of an hour for half a million. Each peer runs
in a process of its own, so that CPU time and peak of memory are its own. All rates are megabytes of text
a second of CPU time, which is the rate of one core. Settings: word 5-grams, 14 buckets of 8 hashes.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from queue import Empty

import pyarrow
import pyarrow.parquet

BUCKETS, HASHES, WORDS = 14, 8, 5


def cpu_seconds():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def peak_megabytes():
    """Of this process alone: `getrusage` would count what its parent had before it (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def subset(folder, count):
    """The first documents in one Parquet file, and the megabytes of their texts."""
    tables, rows = [], 0
    for path in sorted((folder / "documents").glob("documents-*.parquet")):
        table = pyarrow.parquet.read_table(path)
        tables.append(table.slice(0, count - rows))
        rows += tables[-1].num_rows
        if rows >= count:
            break
    table = pyarrow.concat_tables(tables)
    home = folder / "peers"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "input").mkdir()
    pyarrow.parquet.write_table(table, home / "input/documents.parquet")
    texts = table.column("text").to_pylist()
    return home, sum(len(text.encode()) for text in texts) / 1e6, table.num_rows


def run_datatrove(home):
    """Disk to disk, one task. Returns the ids of the documents that it keeps."""
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=WORDS,
        num_buckets=BUCKETS,
        hashes_per_bucket=HASHES,
        seed=1,
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )
    work = home / "datatrove"
    step = {name: str(work / name) for name in ("signatures", "buckets", "clusters", "output")}
    documents = lambda: ParquetReader(str(home / "input")).run(None, 0, 1)  # noqa: E731
    started = cpu_seconds()
    MinhashDedupSignature(step["signatures"], config=config).run(documents(), 0, 1)
    signed = cpu_seconds()
    buckets = MinhashDedupBuckets(step["signatures"], step["buckets"], config=config)
    for bucket in range(BUCKETS):
        buckets.run(None, bucket, BUCKETS)
    MinhashDedupCluster(step["buckets"], step["clusters"], config=config).run(None, 0, 1)
    kept = MinhashDedupFilter(step["clusters"]).run(documents(), 0, 1)
    for _ in ParquetWriter(step["output"]).run(kept, 0, 1):
        pass
    ended = cpu_seconds()
    ids = pyarrow.parquet.read_table(step["output"], columns=["id"]).column("id").to_pylist()
    return {"signatures": signed - started, "disk to disk": ended - started}, ids


def run_text_dedup(home):
    """Disk to disk, by its own command with one process, whose peak of memory is not counted."""
    output = home / "text_dedup"
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "parquet", "--split", "train"]
    command += ["--data_files", str(home / "input/documents.parquet"), "--cache_dir", str(home / "cache")]
    command += ["--output", str(output), "--column", "text", "--num_proc", "1", "--ngram", str(WORDS)]
    command += ["--num_perm", str(BUCKETS * HASHES), "--b", str(BUCKETS), "--r", str(HASHES)]
    command += ["--min_length", str(WORDS)]
    started = cpu_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taken = cpu_seconds() - started
    import datasets

    return {"disk to disk": taken}, datasets.load_from_disk(str(output))["id"]


def run_rensa(home):
    """Its full-set sketch; the reading and the splitting into shingles are what its readme does, a
    line of Python. Without a writer of documents, so there is no "disk to disk"."""
    from rensa import RMinHash

    texts = pyarrow.parquet.read_table(home / "input/documents.parquet").column("text").to_pylist()

    def shingles(text):
        words = text.split()
        return [" ".join(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)]

    started, signed = cpu_seconds(), 0.0
    for at in range(0, len(texts), 500):
        tokens = [shingles(text) for text in texts[at : at + 500]]
        begun = cpu_seconds()
        RMinHash.digest_matrix_from_token_sets(tokens, BUCKETS * HASHES, 1)
        signed += cpu_seconds() - begun
    return {"signatures": cpu_seconds() - started, "signatures of shingles made before": signed}, None


PEERS = {"datatrove": run_datatrove, "text-dedup": run_text_dedup, "rensa": run_rensa}


def run(name, home, queue):
    # One core each: a rate by CPU time of several is no better.
    os.environ.update({"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    seconds, kept = PEERS[name](home)
    queue.put((seconds, kept, peak_megabytes()))


def ours_kept(folder, ids):
    dropped = pyarrow.parquet.read_table(folder / "runs/bench/sample/dedup/dropped/00000.parquet")
    dropped = set(dropped.column("id").to_pylist())
    return {name for name in ids if name not in dropped}


def main():
    folder = pathlib.Path(sys.argv[1])
    ours = json.loads((folder / "ours.json").read_text())
    count = int(os.environ.get("CORPUSMITH_BENCH_PEER_DOCUMENTS", "20000"))
    home, megabytes, count = subset(folder, min(count, ours["documents"]))
    ids = pyarrow.parquet.read_table(home / "input/documents.parquet").column("id").to_pylist()
    kept_by_us = ours_kept(folder, ids)
    rates = {
        "disk to disk": ours["text_bytes"] / 1e6 / ours["cpu_seconds"],
        "signatures": ours["signature_mb_per_second"],
    }
    print(f"ours: {ours['documents']:,} documents, {ours['text_bytes'] / 1e6:,.0f} MB", end="")
    print(f", peak {ours['stage']['peak_memory_bytes'] / 1e6:,.0f} MB")
    print(f"peers: the first {count:,} documents, {megabytes:,.1f} MB")
    print(f"{'':<48}{'ours':>10}{'peer':>10}{'ratio':>8}   MB/s a core")
    for name in sys.argv[2:] or PEERS:
        queue = multiprocessing.Queue()
        process = multiprocessing.Process(target=run, args=(name, home, queue))
        process.start()
        answer = None
        while answer is None and (process.is_alive() or not queue.empty()):
            with contextlib.suppress(Empty):
                answer = queue.get(timeout=1)
        process.join()
        if answer is None:
            print(f"{name}: failed")
            continue
        seconds, kept, peak = answer
        for what, taken in seconds.items():
            mine = rates["signatures"] if what.startswith("signatures") else rates[what]
            rate = megabytes / taken
            print(f"{name + ': ' + what:<48}{mine:>10.2f}{rate:>10.2f}{mine / rate:>8.1f}")
        note = f"peak {peak:,.0f} MB"
        if kept is not None:
            kept = set(kept)
            note += f", keeps {len(kept):,}, we {len(kept_by_us):,}, both {len(kept & kept_by_us):,}"
        print(f"{name}: {note}")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
