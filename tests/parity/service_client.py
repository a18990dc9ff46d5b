"""Checks the service's OpenAPI document: a typed client is generated from it and used, and schemathesis looks for
requests that the service answers with an error of its own.

    make test-client     or by hand, with the packages of requirements-client.txt:
    python tests/parity/service_client.py target/release/pipeline

Prints one line a check and ends with status 1 at the first that fails.
"""

import contextlib
import importlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

BIN = pathlib.Path(sys.executable).parent
PATIENCE_S = 120
RUNS = 5


def check(name, condition, seen):
    print(f"{'ok  ' if condition else 'FAIL'} {name}: {seen!r}"[:160], flush=True)
    if not condition:
        sys.exit(1)


def write_workflows(folder, home):
    rows = home / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": f"d{n}", "n": n}) + "\n" for n in range(100)))
    quick = f"""name = "quick"
[stage.rows]
kind = "read"
paths = ["{rows}"]
[stage.few]
kind = "sql"
inputs = {{ tables = ["rows"] }}
query = "SELECT * FROM rows WHERE n < 10"
"""
    # Far longer than any wait here: only a cancelled run ends.
    slow = quick.replace('"quick"', '"slow"').replace("SELECT * FROM rows WHERE n < 10", LONG)
    (folder / "quick.toml").write_text(quick)
    (folder / "slow.toml").write_text(slow)


LONG = (
    "SELECT count(*) AS n FROM rows a, rows b, rows c, rows d, rows e, rows f "
    "WHERE (a.n * b.n + c.n * d.n + e.n * f.n) % 7 = 3"
)


@contextlib.contextmanager
def service(program, home):
    (home / "workflows").mkdir()
    (home / "data").mkdir()
    write_workflows(home / "workflows", home)
    command = [program, "serve", "--listen", "127.0.0.1:0", "--data", home / "data", "--workflows", home / "workflows"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line).group()
        check("the service lives", process.poll() is None, process.poll())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def generated(document, home):
    """The package that the generator makes of the document. A type that it must leave out is a defect."""
    path = home / "openapi.json"
    path.write_text(json.dumps(document))
    config = home / "config.yml"
    config.write_text("post_hooks: []\npackage_name_override: service_client_generated\n")
    command = [BIN / "openapi-python-client", "generate", "--path", path, "--output-path", home / "client"]
    command += ["--config", config, "--meta", "setup", "--fail-on-warning"]
    made = subprocess.run(command, capture_output=True, text=True)
    check("generated without a warning", made.returncode == 0, made.stdout[-1500:] + made.stderr[-500:])
    sys.path.insert(0, str(home / "client"))
    return importlib.import_module("service_client_generated")


def api(name):
    return importlib.import_module(f"service_client_generated.api.default.{name}")


def run_until(client, run, *states):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        seen = api("get_run").sync(run, client=client)
        if str(seen.state) in states:
            return seen
        time.sleep(0.2)
    return seen


def use(package, address):
    models = importlib.import_module("service_client_generated.models")
    client = package.Client(base_url=address)
    submit, list_runs = api("submit_run"), api("list_runs")

    ids = []
    for number in range(RUNS):
        entered = submit.sync(client=client, body=models.RunRequest(file="quick.toml", name=f"r{number}"))
        ids += entered.runs
    check("submitted", len(set(ids)) == RUNS, ids)

    for run in ids:
        done = run_until(client, run, "succeeded", "failed")
        check("followed to its end", str(done.state) == "succeeded", (run, str(done.state), done.error))
    check("typed progress", done.progress["few"].rows_out == 10, done.progress["few"].rows_out)

    paged, before = [], None
    while True:
        page = list_runs.sync(client=client, limit="2", **({"before": before} if before else {}))
        check("a page", 0 < len(page.runs) <= 2, len(page.runs))
        paged += [run.id for run in page.runs]
        before = page.next_
        if not before:
            break
    check("pages hold each run once, the latest first", paged == sorted(ids, reverse=True), len(paged))

    [slow] = submit.sync(client=client, body=models.RunRequest(file="slow.toml")).runs
    running = run_until(client, slow, "running", "succeeded", "failed")
    check("the slow one runs", str(running.state) == "running", (str(running.state), running.error))
    answer = api("cancel_run").sync_detailed(slow, client=client)
    check("cancel is taken", answer.status_code == 204, answer.status_code)
    cancelled = run_until(client, slow, "cancelled", "succeeded", "failed")
    check("cancelled", str(cancelled.state) == "cancelled", str(cancelled.state))

    missing = api("get_run").sync_detailed("none", client=client)
    check("a problem", missing.status_code == 404 and isinstance(missing.parsed, models.Problem), missing.parsed)
    check("its status", missing.parsed.status == 404, missing.parsed)


def fuzz(address, home):
    # Runs are not submitted by the thousand, and what never ends is not waited for.
    command = [BIN / "schemathesis", "run", f"{address}/api/openapi.json", "--checks", "not_a_server_error"]
    command += ["--max-examples", "20", "--seed", "1", "--exclude-operation-id", "watch_run"]
    command += ["--exclude-operation-id", "test_notice", "--phases", "examples,coverage,fuzzing"]
    # It keeps what it found in the folder where it runs.
    done = subprocess.run(command, capture_output=True, text=True, cwd=home)
    check("schemathesis finds no server error", done.returncode == 0, done.stdout[-3000:])


with tempfile.TemporaryDirectory() as folder:
    home = pathlib.Path(folder)
    with service(pathlib.Path(sys.argv[1]).resolve(), home) as address:
        with urllib.request.urlopen(f"{address}/api/openapi.json") as answer:
            document = json.load(answer)
        use(generated(document, home), address)
        fuzz(address, home)
