"""Runs bm25s and tantivy-py on the files that the benchmark `peers` wrote, and prints a table.

usage: peers.py FOLDER [PEER…]

Each peer runs in a process of its own, so that its peak of memory is its own. Queries are run once to
warm up and once for time. Indexing counts reading the file, analysis and, for tantivy-py, the commit.
bm25s runs as `pip install bm25s` leaves it, with NumPy, and compiled by numba, which it can use.
"""

import json
import multiprocessing
import pathlib
import resource
import shutil
import sys
import time

KS = (10, 1000)


def pages(folder, count):
    with open(folder / f"corpus-{count}.tsv", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").split("\t", 1)


def timed(work):
    """Wall-clock and CPU seconds (of all threads), and the result."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started, time.process_time() - cpu), result


class Figures:
    def __init__(self, megabytes, queries):
        self.megabytes, self.queries, self.rates = megabytes, queries, {}

    def add(self, name, amount, seconds):
        self.rates[name] = [amount / part for part in seconds]

    def index(self, seconds):
        self.add("index", self.megabytes, seconds)

    def search(self, name, search):
        for query in self.queries:
            search(query)
        seconds, _ = timed(lambda: [search(query) for query in self.queries])
        self.add(name, len(self.queries), seconds)


def run_tantivy(folder, count, figures):
    import tantivy

    home = folder / "tantivy"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("text", stored=False, tokenizer_name="en_stem", index_option="freq")
    index = tantivy.Index(builder.build(), path=str(home))

    def build():
        # The memory and the threads of our default.
        writer = index.writer(heap_size=1 << 30, num_threads=4)
        for page_id, text in pages(folder, count):
            writer.add_document(tantivy.Document(id=page_id, text=text))
        writer.commit()
        writer.wait_merging_threads()

    figures.index(timed(build)[0])
    index.reload()
    searcher = index.searcher()
    for k in KS:

        def addresses(query):
            return searcher.search(index.parse_query(query, ["text"]), k).hits

        def with_ids(query):
            return [searcher.doc(address)["id"][0] for _, address in addresses(query)]

        figures.search(f"addresses only, k = {k}, one thread", addresses)
        figures.search(f"any term, k = {k}, one thread", with_ids)


def run_bm25s(folder, count, figures, backend="numpy"):
    import bm25s
    import numpy
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    ids = []

    def texts():
        for page_id, text in pages(folder, count):
            ids.append(page_id)
            yield text

    def build():
        tokens = bm25s.tokenize(list(texts()), stopwords="en", stemmer=stemmer, show_progress=False)
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend=backend)
        index.index(tokens, show_progress=False)
        return index

    seconds, index = timed(build)
    figures.index(seconds)
    names = numpy.array(ids)
    for k in KS:

        def search(query):
            tokens = bm25s.tokenize(
                [query], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
            )
            if not tokens[0]:  # Stop words only: the library refuses such a query.
                return []
            best, _ = index.retrieve(tokens, k=k, show_progress=False, n_threads=1)
            return names[best[0]]

        figures.search(f"any term, k = {k}, one thread", search)

        def all_at_once():
            tokens = bm25s.tokenize(
                figures.queries, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
            )
            best, _ = index.retrieve(tokens, k=k, show_progress=False, n_threads=multiprocessing.cpu_count())
            return names[best]

        all_at_once()
        seconds, _ = timed(all_at_once)
        figures.add(f"any term in one call, k = {k}, all processors", len(figures.queries), seconds)


def run_bm25s_numba(folder, count, figures):
    run_bm25s(folder, count, figures, backend="numba")


PEERS = {"tantivy-py": run_tantivy, "bm25s": run_bm25s, "bm25s with numba": run_bm25s_numba}


def run(name, folder, ours, queue):
    queries = (folder / "queries.txt").read_text(encoding="utf-8").splitlines()
    figures = Figures(ours["text_bytes"] / 1e6, queries)
    PEERS[name](folder, ours["pages"], figures)
    figures.rates["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    queue.put(figures.rates)


def main():
    folder = pathlib.Path(sys.argv[1])
    ours = json.loads((folder / "ours.json").read_text())
    rows = {row["name"]: row for row in ours["rows"]}
    print(f"\n{ours['pages']:,} pages, {ours['text_bytes'] / 1e6:,.0f} MB of text")
    print(f"{'':<58}{'wall clock':^30}{'CPU time':^30}")
    print(f"{'':<58}" + 2 * f"{'ours':>10}{'peer':>10}{'ratio':>8}  ")
    for name in sys.argv[2:] or PEERS:
        queue = multiprocessing.Queue()
        process = multiprocessing.Process(target=run, args=(name, folder, ours, queue))
        process.start()
        process.join()
        if process.exitcode != 0:
            print(f"{name}: ended with {process.exitcode}")
            continue
        rates = queue.get()
        peak = rates.pop("peak MB")
        for what, (wall, cpu) in rates.items():
            mine = rows.get(what.replace("addresses only", "any term"))
            if "in one call" in what:
                k = what.split("k = ")[1].split(",")[0]
                mine = rows[f"two-step topics, k = {k}, all processors, 256 a batch"]
            pairs = ((mine["rate"], wall), (mine["cpu_rate"], cpu))
            values = "".join(f"{own:>10.1f}{peer:>10.1f}{own / peer:>8.2f}  " for own, peer in pairs)
            print(f"{name + ': ' + what:<58}{values}")
        print(f"{name}: peak {peak:,.0f} MB")
    peak = max(row["peak_mb"] for row in ours["rows"])
    print(f"ours: peak {peak:,.0f} MB, mapped index files among it")


if __name__ == "__main__":
    main()
