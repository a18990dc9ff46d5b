"""What the scripts beside share: running this program, and what it takes."""

import resource
import subprocess

import pyarrow.parquet


def processor_seconds(command):
    """Runs a command to its end; the processor time that it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_stage(pipeline, pages, folder, name, stage):
    """Runs a stage, given as lines of TOML, over a Parquet file: the rows that come out, and the processor time with
    the program's start and with reading and writing Parquet."""
    (folder / "workflow.toml").write_text(
        f'name = "{name}"\n[stage.pages]\nkind = "read"\npaths = ["{pages}"]\nmaterialize = false\n'
        f'[stage.out]\ninput = "pages"\n{stage}\n'
    )
    seconds = processor_seconds([pipeline, "run", folder / "workflow.toml", "--runs", folder / "runs"])
    return pyarrow.parquet.read_table(folder / f"runs/{name}/sample/out/data"), seconds
