"""Peak memory of each stage as its rows grow: a table, and a plot as SVG.

    pip install pyarrow
    python pipeline/benches/memory.py target/release/pipeline PAGES.parquet PLOT.svg [STAGE…]

For each stage a workflow of `read` and that stage is run on 1, 3 and 10 times as many rows, in a process of
its own, whose peak its manifest tells. Rows are real pages with their sentences in another order, so
that none is a copy of another; a row in fifty is, for the stages that look for copies. The stages for code get
the same pages: what they decide does not matter here. CORPUSMITH_BENCH_ROWS sets the rows of the smallest run (30,000,
with which stages run for a second), CORPUSMITH_BENCH_MEMORY `--memory-limit`.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import pyarrow
import pyarrow.parquet

SCALES = (1, 3, 10)
ROWS = int(os.environ.get("CORPUSMITH_BENCH_ROWS", 30_000))
MEMORY = os.environ.get("CORPUSMITH_BENCH_MEMORY", "256MiB")
# The part of ROWS that slow stages get.
SLOW = {"extract": 0.5, "score": 0.007, "embed": 0.007}

STAGES = {
    "extract": "",
    "language": "",
    "url_filter": 'domains = { entries = ["example.com"] }',
    "gopher_repetition": "",
    "gopher_quality": "",
    "c4_quality": "",
    "fineweb_quality": "",
    "pii": "",
    "code_quality": "",
    "license": "keep_unknown = true",
    "exact_dedup": "memory_bytes = 16777216",
    "url_dedup": "memory_bytes = 16777216",
    "sentence_dedup": "memory_bytes = 16777216",
    "sentence_dedup words": 'unit = "words"\nrun = 50\nmemory_bytes = 16777216',
    "minhash": "memory_bytes = 16777216",
    "decontaminate": 'benchmarks = [{ name = "humaneval", asset = "humaneval", format = "humaneval" }]',
    "filter": 'keep = "length(text) > 100"',
    "score": 'head = "edu_web"',
    "mix": "shuffle = true",
    "embed": "",
    "index": "shards = 2\nmemory_bytes = 67108864",
    "retrieve": "pages_per_topic = 20",
    "prompts": "shares = { middle_school = 0, college = 0, other = 0, code = 1 }",
    "clean": "min_tokens = 1",
}
# Where a stage reads not only `pages`, what it reads, and the stages that it needs.
INPUTS = {
    "mix": '{ sources = ["pages"] }',
    "retrieve": '{ topics = "topics", index = "index", pages = "pages" }',
}
OTHERS = {
    "mix": '[stage.measured.subsets]\nall = { stage = "pages", weight = 1 }\n',
    "retrieve": '[stage.topics]\nkind = "topics"\nmax_headings = 300\ntarget = 300\n'
    '[stage.index]\nkind = "index"\ninput = "pages"\nshards = 2\nmemory_bytes = 67108864\n',
}


def pages(source, count, as_html):
    """Rows in batches."""
    draw = random.Random(3)
    texts = [text.split(". ") for text in pyarrow.parquet.read_table(source)["text"].to_pylist()]
    rows, last = [], None
    for at in range(count):
        if at % 50 != 1 or last is None:
            sentences = list(draw.choice(texts))
            draw.shuffle(sentences)
            last = ". ".join(sentences)
        text = f"<html><body><article><p>{last}</p></article></body></html>" if as_html else last
        rows.append(
            {
                "id": f"row-{at}", "url": f"https://host{at % 997}.example/{at}", "text": text, "license": "MIT",
                # As `generate` leaves them, for `clean`.
                "prompt_id": f"row-{at}", "topic_id": "t", "prompt": "Explain this.", "seed_text": "", "audience": "general",
                "style": "textbook", "completion": text, "finish_reason": "stop", "prompt_tokens": 3,
                "completion_tokens": len(text) // 4,
            }
        )
        if len(rows) == 500 or at + 1 == count:
            yield pyarrow.Table.from_pylist(rows)
            rows = []


def write(source, count, folder, as_html):
    folder.mkdir(parents=True)
    for number, table in enumerate(pages(source, count, as_html)):
        if number % 4 == 0:
            writer = pyarrow.parquet.ParquetWriter(folder / f"{number:05}.parquet", table.schema)
        writer.write_table(table)
        if number % 4 == 3:
            writer.close()
    writer.close()


def peak_megabytes(binary, name, rows, folder):
    kind, settings = name.split()[0], STAGES[name]
    role = f"inputs = {INPUTS[kind]}" if kind in INPUTS else 'input = "pages"'
    workflow = folder / "workflow.toml"
    workflow.write_text(
        f'name = "memory"\n[stage.pages]\nkind = "read"\npaths = ["{rows}/*.parquet"]\n'
        f'[stage.measured]\nkind = "{kind}"\n{role}\n{settings}\n' + OTHERS.get(kind, "")
    )
    command = [binary, "run", workflow, "--runs", folder / "runs", "--memory-limit", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr}")
    # The process's own word: `getrusage` would count what this one had before it.
    manifest = json.loads((folder / "runs/memory/sample/measured/manifest.json").read_text())
    return manifest["peak_memory_bytes"] / 1e6


def plot(table):
    width, left, row = 760, 190, 26
    largest = max(max(peaks) for _, peaks in table)
    height = row * len(table) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        "<style>svg{font:12px system-ui,sans-serif;fill:#808080}</style>",
    ]
    for at, (name, peaks) in enumerate(table):
        y = row * at + 10
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        for scale, peak, shade in zip(range(3), peaks, ("#a9cbe8", "#6ba3d6", "#3b82c4")):
            length = (width - left - 60) * peak / largest
            parts.append(f'<rect x="{left}" y="{y + 6 * scale}" width="{length:.1f}" height="5" fill="{shade}"/>')
        parts.append(f'<text x="{left + (width - left - 60) * max(peaks) / largest + 6:.1f}" y="{y + 14}">{max(peaks):.0f}</text>')
    parts.append(f'<text x="{left}" y="{height - 8}">peak memory in MB at 1, 3 and 10 times the rows</text></svg>')
    return "\n".join(parts) + "\n"


def main():
    binary, source, target = sys.argv[1:4]
    binary, names, table = os.path.abspath(binary), sys.argv[4:] or STAGES, []
    print(f"{'stage':22}{'rows':>8}" + "".join(f"{f'{scale} x':>9}" for scale in SCALES) + "   growth", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in names:
            base, peaks = int(ROWS * SLOW.get(name, 1)), []
            for scale in SCALES:
                as_html = name == "extract"
                rows = folder / f"rows-{base * scale}{'-html' if as_html else ''}"
                if not rows.exists():
                    write(source, base * scale, rows, as_html)
                place = folder / f"{name.replace(' ', '-')}-{scale}"
                place.mkdir()
                peaks.append(peak_megabytes(binary, name, rows, place))
            table.append((name, peaks))
            cells = "".join(f"{peak:9.0f}" for peak in peaks)
            print(f"{name:22}{base:8}{cells}   {100 * (peaks[2] / peaks[0] - 1):+.0f} %", flush=True)
    pathlib.Path(target).write_text(plot(table))


main()
