"""Puts the English pages of a Parquet file through FineWeb's rules, by datatrove and by this program, and
prints how often they agree, and how fast each is in processor time (ours with reading and writing Parquet).

    pip install "datatrove==0.10.1" "spacy==3.8.18" pyarrow regex "xxhash<3.6" tokenizers nltk tldextract pyahocorasick fasteners
    cargo build --release
    python tests/parity/rules_datatrove.py pages.parquet --pipeline target/release/pipeline

Every rule is run on all pages by itself. Two things are known to differ and are evened out here:
datatrove's replacements of addresses go on from text to text, ours begin anew with each; and its URL filter
compares host names letter by letter, ours in lower case.

The other modes print the values that the tests of `classifiers/src/{text,rules}` and
`pipeline/src/stages/rules/tests.rs` hold: --golden (with a file), --sets, --exceptions, and --words,
--sentences, --pii, --url with texts.
"""

import argparse
import collections
import hashlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import spacy
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    URLFilter,
)
from datatrove.pipeline.filters.base_filter import get_filter_result
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils import text as datatrove_text
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION, split_into_sentences, split_into_words
from datatrove.utils.word_tokenizers import load_word_tokenizer
from program import processor_seconds
from spacy.lang import char_classes
from spacy.pipeline.sentencizer import Sentencizer

# Name: the stage's table in TOML, and datatrove's filter.
RULES = {
    "gopher_repetition": ('kind = "gopher_repetition"', GopherRepetitionFilter),
    "gopher_quality": ('kind = "gopher_quality"', GopherQualityFilter),
    "c4_fineweb": (
        'kind = "c4_quality"\nfilter_no_terminal_punct = false',
        lambda: C4QualityFilter(filter_no_terminal_punct=False),
    ),
    "c4": ('kind = "c4_quality"', C4QualityFilter),
    "c4_sentences": ('kind = "c4_quality"\nunit = "sentences"', lambda: C4QualityFilter(split_paragraph=False)),
    "fineweb_quality": ('kind = "fineweb_quality"', FineWebQualityFilter),
    "pii": ('kind = "pii"', PIIFormatter),
}

# The lists of the URL rule, chosen so that each reason has pages among those of the project's data.
LISTS = {
    "domains": ["nytimes.com", "en.wikipedia.org", "medium.com"],
    "urls": ["https://dragnet.example/100.html"],
    "banned_words": ["archive"],
    "soft_banned_words": ["blog", "2012", "2013", "2014", "2015", "news"],
    "banned_subwords": ["ple7", "ngt"],
}


def url_filter():
    """With our lists; datatrove has no settings for extra domains under other names."""
    return URLFilter(
        extra_domains=LISTS["domains"], extra_urls=LISTS["urls"], banned_words=LISTS["banned_words"],
        soft_banned_words=LISTS["soft_banned_words"], banned_subwords=LISTS["banned_subwords"],
        use_integrated_lists=False,
    )


def english_pages(path):
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["id", "text", "url", "language"]).to_pylist()
    return [row for row in rows if row["language"] == "en"]


def decide(step, page):
    """The reason for which datatrove drops a page, and else the text it keeps."""
    # Or the words of a page that an earlier rule has split would be free.
    datatrove_text.split_into_parts.cache_clear()
    document = Document(text=page["text"], id=page["id"], metadata={"url": page["url"]})
    if isinstance(step, PIIFormatter):
        step.emails_replacer._replace_i = step.ip_replacer._replace_i = 0
        return None, step.format(document.text)
    kept, reason = get_filter_result(step.filter(document))
    return (None, document.text) if kept else (reason, None)


def by_datatrove(step, pages):
    decide(step, pages[0])
    started = time.process_time()
    outcomes = {page["id"]: decide(step, page) for page in pages}
    return outcomes, time.process_time() - started


def by_pipeline(binary, path, folder):
    """Every rule as a stage over the English pages: what becomes of them, and the seconds of processor time."""
    lists = "\n".join(f"{name} = {{ entries = {json.dumps(entries)} }}" for name, entries in LISTS.items())
    tables = {**{name: toml for name, (toml, _) in RULES.items()}, "url_filter": f'kind = "url_filter"\n{lists}'}
    workflow = f'name = "rules"\n[stage.pages]\nkind = "read"\npaths = ["{Path(path).resolve()}"]\n'
    workflow += "[stage.english]\nkind = \"filter\"\ninput = \"pages\"\nkeep = \"language = 'en'\"\n"
    for name, toml in tables.items():
        workflow += f'[stage.{name}]\n{toml}\ninput = "english"\nkeep_dropped = true\n'
    (folder / "rules.toml").write_text(workflow)

    def run(stage):
        workflow = folder / "rules.toml"
        return processor_seconds(
            [binary, "run", workflow, "--runs", folder / "runs", "--threads", "1", "--until", stage]
        )

    run("english")
    seconds = {name: run(name) for name in tables}
    stages = folder / "runs" / "rules" / "sample"
    return {name: (outcome(stages / name), seconds[name]) for name in tables}


def outcome(stage):
    import pyarrow.parquet as pq

    outcomes = {}
    for shard in sorted(stage.glob("data/*.parquet")):
        rows = pq.read_table(shard, columns=["id", "text"]).to_pylist()
        outcomes.update({row["id"]: (None, row["text"]) for row in rows})
    for shard in sorted(stage.glob("dropped/**/*.parquet")):
        outcomes.update({row["id"]: (row["reason"], None) for row in pq.read_table(shard).to_pylist()})
    return outcomes


def compare(path, binary):
    pages = english_pages(path)
    megabytes = sum(len(page["text"].encode()) for page in pages) / 1e6
    print(f"{len(pages):,} English pages, {megabytes:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        ours = by_pipeline(binary, path, Path(folder))
    print(f"{'rule':18} {'agree':>7} {'drop':>6}  {'datatrove':>12} {'ours':>12} {'ratio':>6}")
    total, different = [0.0, 0.0], 0
    steps = {**{name: make for name, (_, make) in RULES.items()}, "url_filter": url_filter}
    for name, make in steps.items():
        theirs, seconds = by_datatrove(make(), pages)
        found, our_seconds = ours[name]
        differ = [name for name, outcome in theirs.items() if found.get(name) != outcome]
        dropped = sum(reason is not None for reason, _ in theirs.values())
        agree = 100 * (1 - len(differ) / len(pages))
        print(
            f"{name:18} {agree:6.2f}% {dropped:6}  {megabytes / seconds:7.2f} MB/s {megabytes / our_seconds:7.1f} MB/s"
            f" {seconds / our_seconds:6.1f}"
        )
        for page in differ[:5]:
            short = lambda outcome: outcome and (outcome[0] or "kept")  # noqa: E731
            print(f"    {page}: datatrove {short(theirs[page])}, ours {short(found.get(page))}")
        if name != "url_filter":
            total = [total[0] + seconds, total[1] + our_seconds]
        different += len(differ)
    print(f"all rules over texts: datatrove {megabytes / total[0]:.2f} MB/s, ours {megabytes / total[1]:.1f} MB/s, "
          f"{total[0] / total[1]:.1f} times as fast")
    return different


def golden(path):
    pages = english_pages(path)
    for name, (_, make) in RULES.items():
        outcomes, _ = by_datatrove(make(), pages)
        lines = sorted(
            f"{page}\t{reason}\n" if reason else f"{page}\t\t{text}\n" for page, (reason, text) in outcomes.items()
        )
        counts = collections.Counter(reason for reason, _ in outcomes.values() if reason)
        digest = hashlib.sha1("".join(sorted(lines, key=str.encode)).encode()).hexdigest()
        print(name, digest)
        print("   ", ", ".join(f'("{reason}", {count})' for reason, count in sorted(counts.items())))


def sets():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    tokenizer = spacy.blank("en").tokenizer
    of_class = lambda text: re.compile(f"[{text}]").match  # noqa: E731
    before_period = char_classes.ALPHA_LOWER + r"%²\-\+" + char_classes.PUNCT + "(?:" + char_classes.CONCAT_QUOTES + ")"
    tests = {
        "letters": of_class(char_classes.ALPHA),
        "lower": of_class(char_classes.ALPHA_LOWER),
        "upper": of_class(char_classes.ALPHA_UPPER),
        "symbols": of_class(char_classes.CONCAT_ICONS),
        # The sign of a number depends on what follows.
        "prefix": lambda c: c != "+" and tokenizer.prefix_search(c),
        "suffix": tokenizer.suffix_search,
        "before_period": of_class("0-9" + before_period),
        "sentence_end": set(Sentencizer.default_punct_chars).__contains__,
        "terminal": TERMINAL_PUNCTUATION.__contains__,
        "symbol_of_gopher": PUNCTUATION_SET.__contains__,
    }
    for name, test in tests.items():
        members = [ord(c) for c in characters if test(c)]
        print(name, (len(members), sum(members)))


def exceptions():
    rules = spacy.blank("en").tokenizer.rules
    orth = spacy.symbols.ORTH
    lines = sorted("|".join(token[orth] for token in tokens) for word, tokens in rules.items() if not word.isspace())
    value = 0xCBF29CE484222325
    for byte in "\n".join(sorted(lines, key=str.encode)).encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    print(len(lines), hex(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--pipeline", default="target/release/pipeline")
    parser.add_argument("--golden", action="store_true")
    parser.add_argument("--sets", action="store_true")
    parser.add_argument("--exceptions", action="store_true")
    parser.add_argument("--words", nargs="+")
    parser.add_argument("--sentences", nargs="+")
    parser.add_argument("--pii", nargs="+")
    parser.add_argument("--url", nargs="+")
    args = parser.parse_args()
    show = lambda value: print(json.dumps(value, ensure_ascii=False))  # noqa: E731
    load_word_tokenizer("en")
    for text in args.words or ():
        show([text, "|".join(split_into_words(text))])
    for text in args.sentences or ():
        show([text, "|".join(split_into_sentences(text))])
    for text in args.pii or ():
        show([text, PIIFormatter().format(text)])
    for url in args.url or ():
        show([url, decide(url_filter(), {"id": "", "text": "", "url": url})[0]])
    if args.sets:
        sets()
    if args.exceptions:
        exceptions()
    if args.path and args.golden:
        golden(args.path)
    elif args.path:
        sys.exit(1 if compare(args.path, args.pipeline) else 0)


main()
