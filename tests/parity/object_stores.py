"""Reads files out of a server that speaks S3 (moto's), by pattern, with faults between, and without it: Parquet,
JSON lines, CSV, Arrow and WET.

    make parity     or by hand, with the packages of requirements.txt:
    python tests/parity/object_stores.py target/release/pipeline
"""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import boto3
import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ROWS = 20_000


class Faults:
    """Answers every n-th request by itself: 503, 500, or late."""

    def __init__(self, application):
        self.application, self.every, self.requests = application, 0, 0

    def __call__(self, environment, start):
        self.requests += 1
        if self.every and self.requests % self.every == 0:
            kind = self.requests // self.every % 3
            if kind == 2:
                time.sleep(1)
            else:
                start(("503 Slow Down", "500 Internal Server Error")[kind], [("Content-Length", "0")])
                return [b""]
        return self.application(environment, start)


def put(client, key, first):
    ids = [f"row-{number}" for number in range(first, first + ROWS)]
    table = pyarrow.table({"id": ids, "text": [f"Text of {name}. " * 20 for name in ids]})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=2_000)
    client.put_object(Bucket="dumps", Key=key, Body=file.getvalue())


def run(pipeline, folder, paths, environment, **settings):
    listed = ", ".join(f'"{path}"' for path in paths)
    (folder / "w.toml").write_text(
        f'name = "w"\n[stage.pages]\nkind = "read"\npaths = [{listed}]\npiece_bytes = 100000\n'
    )
    command = [pipeline, "run", "w.toml", "--json"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **settings)


def put_others(client, ids):
    """The same rows in each of the other formats; each file is longer than what is asked for at once."""
    texts = {name: f"Text of {name}. " * 40 for name in ids}
    lines = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()).encode()
    table = pyarrow.table({"id": list(texts), "text": list(texts.values())})
    arrow = io.BytesIO()
    with pyarrow.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=1_000)
    comma = io.BytesIO()
    pyarrow.csv.write_csv(table, comma)
    record = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: {}\r\nContent-Length: {}\r\n\r\n{}\r\n\r\n"
    wet = [record.format(name, len(text), text).encode() for name, text in texts.items()]
    files = {
        "lines.jsonl": lines,
        "lines.jsonl.gz": gzip.compress(lines),
        "table.arrow": arrow.getvalue(),
        "table.csv": comma.getvalue(),
        "pages.warc.wet.gz": b"".join(map(gzip.compress, wet)),
    }
    for name, content in files.items():
        client.put_object(Bucket="dumps", Key=f"others/{name}", Body=content)
    return files


def rows(folder):
    return pyarrow.parquet.read_table(folder / "runs/w/sample/pages/data", columns=["id"])["id"].to_pylist()


def main():
    pipeline = str(pathlib.Path(sys.argv[1]).resolve())
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.port}"
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "not-to-be-told", "AWS_REGION": "us-east-1"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": url}
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket="dumps")
    put(client, "a/1/x.parquet", 0)
    put(client, "a/2/x.parquet", ROWS)
    put(client, "b/1/x.parquet", 2 * ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wanted = [f"row-{number}" for number in range(2 * ROWS)]
        said = run(pipeline, folder, ["s3://dumps/a/*/x.parquet"], environment)
        assert said.returncode == 0, said.stderr
        assert rows(folder) == wanted
        print(f"by pattern: {2 * ROWS} rows in order")
        said = run(pipeline, folder, ["s3://dumps/a/*/x.parquet"], environment)
        assert '"stages_run":0' in said.stdout.replace(" ", ""), said.stdout
        put(client, "a/2/x.parquet", 2 * ROWS)
        faults.every = 4
        said = run(pipeline, folder, ["s3://dumps/a/*/x.parquet"], environment)
        assert said.returncode == 0, said.stderr
        assert rows(folder) == wanted[:ROWS] + [f"row-{number}" for number in range(2 * ROWS, 3 * ROWS)]
        print("a changed object is read anew, with each fourth request refused or late")
        wanted = [f"row-{number}" for number in range(ROWS)]
        for name, content in put_others(client, wanted).items():
            said = run(pipeline, folder, [f"s3://dumps/others/{name}"], environment)
            assert said.returncode == 0, said.stderr
            assert rows(folder) == wanted, name
            print(f"{name}: {ROWS} rows in order out of {len(content):,} bytes, with each fourth request refused")
        faults.every = 0
        for paths, words in (
            (["s3://dumps/none/*.parquet"], "matches no file"),
            (["s3://dumps/none/x.parquet"], "s3://dumps/none/x.parquet"),
            (["s3://nobody/x.parquet"], "s3://nobody/x.parquet"),
            (["s3://dumps"], "names no bucket"),
        ):
            said = run(pipeline, folder, paths, environment)
            assert said.returncode != 0 and words in " ".join(said.stderr.split()), said.stderr
            assert "panicked" not in said.stderr and keys["AWS_SECRET_ACCESS_KEY"] not in said.stderr
        print("what is not there is named")
    server.shutdown()


if __name__ == "__main__":
    main()
