"""From Parquet through filters and near-deduplication to Parquet, beside datatrove's local executor.

usage: end_to_end.py PIPELINE PAGES.parquet [WORKERS]          (datatrove 0.10.1 and spaCy, as requirements.txt has them)

Both read the English pages of the file, cut into one file for each worker, drop by Gopher's repetition and quality
rules, and drop near-duplicates (word 5-grams, 14 buckets of 8 hashes, sha1 of 64 bits, seed 1), with as many
processes (datatrove) or threads (ours) as WORKERS, 2 by default. The ids that they keep are compared.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import pyarrow
import pyarrow.parquet

WORKFLOW = """
name = "end_to_end"
[stage.pages]
kind = "read"
paths = ["input/*.parquet"]
[stage.repetition]
kind = "gopher_repetition"
input = "pages"
[stage.quality]
kind = "gopher_quality"
input = "repetition"
[stage.dedup]
kind = "minhash"
input = "quality"
"""


def timed(work):
    """Seconds by the clock: datatrove's processes are not its own children."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ours(pipeline, folder, workers):
    (folder / "w.toml").write_text(WORKFLOW)
    command = [pipeline, "run", "w.toml", "--threads", str(workers)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def theirs(folder, workers):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=5,
        num_buckets=14,
        hashes_per_bucket=8,
        seed=1,
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )
    place = {name: str(folder / "datatrove" / name) for name in "filtered signatures buckets clusters output".split()}

    def run(name, tasks, *steps):
        logs = str(folder / "datatrove/logs" / name)
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=workers, logging_dir=logs).run()

    filters = GopherRepetitionFilter(), GopherQualityFilter()
    run("filter", workers, ParquetReader(str(folder / "input")), *filters, ParquetWriter(place["filtered"]))
    filtered = ParquetReader(place["filtered"])
    run("signatures", workers, filtered, MinhashDedupSignature(place["signatures"], config=config))
    run("buckets", 14, MinhashDedupBuckets(place["signatures"], place["buckets"], config=config))
    run("clusters", 1, MinhashDedupCluster(place["buckets"], place["clusters"], config=config))
    run("dedup", workers, filtered, MinhashDedupFilter(place["clusters"]), ParquetWriter(place["output"]))


def kept(path):
    return sorted(pyarrow.parquet.read_table(path, columns=["id"])["id"].to_pylist())


def main():
    pipeline, pages = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    table = pyarrow.parquet.read_table(pages, columns=["id", "text"], filters=[("language", "=", "en")])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "input").mkdir()
        part = -(-table.num_rows // workers)
        for worker in range(workers):
            rows = table.slice(worker * part, part)
            pyarrow.parquet.write_table(rows, folder / f"input/{worker:05}.parquet", row_group_size=500)
        megabytes = sum(len(text.encode()) for text in table["text"].to_pylist()) / 1e6
        print(f"{table.num_rows} pages, {megabytes:.1f} MB, {workers} workers")
        mine = timed(lambda: ours(pipeline, folder, workers))
        peer = timed(lambda: theirs(folder, workers))
        ids = kept(folder / "runs/end_to_end/sample/dedup/data"), kept(folder / "datatrove/output")
    for who, wall in (("ours", mine), ("datatrove", peer)):
        print(f"{who}: {wall:.1f} s, {megabytes / wall:.2f} MB/s")
    print(f"ratio {peer / mine:.0f}")
    print(f"kept: {len(ids[0])} here, {len(ids[1])} there, {len(set(ids[0]) ^ set(ids[1]))} by one of them alone")


if __name__ == "__main__":
    main()
