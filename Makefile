# Everything this project does, by name. PYTHON names the interpreter that makes .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: search test soak locks outage fuzz bench pictures constraints clean

search: .venv/installed  ## set up and search: minutes on two cores
	$(BIN)/tuner search quick

test: .venv/tested .venv/browser  ## what CI runs: two processes, each with whole files, whose threads give way to each other while they wait; what they start finds the code compiled
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12

soak: .venv/tested  ## fifty kills at random moments, to the same end
	$(BIN)/python -m tests.kills --kills 50 --json
	$(BIN)/python -m tests.kills --kills 20 --processes --json

locks: .venv/tested  ## an hour of two workers and a dashboard on one SQLite file
	$(BIN)/python -m tests.locks --minutes 60 --json

outage: .venv/tested  ## a search whose PostgreSQL is away for a minute
	TUNER_TEST_AWAY=60 $(BIN)/pytest tests/tuner/test_postgres.py -k comes_back

fuzz: .venv/tested  ## ten thousand damaged files of each kind, and the properties on examples that are new
	$(BIN)/python -m tests.fuzz --inputs 10000 --json
	TUNER_TEST_RANDOM=1 $(BIN)/pytest -m hypothesis

bench: .venv/installed  ## the trainer's speed on this machine
	$(BIN)/python -m benchmarks.trainer_speed --json

pictures: .venv/installed .venv/browser  ## the README's picture, from the report of the newest quick study here
	$(BIN)/tuner report quick -o runs/report.html
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1180,1560 --screenshot=docs/report.png "file://$(CURDIR)/runs/report.html"

constraints:  ## what the image installs, pinned anew
	rm -rf .venv-image && $(PYTHON) -m venv .venv-image && .venv-image/bin/pip install --quiet '.[metrics,postgres,s3]'
	.venv-image/bin/pip freeze --exclude tuner | sed 's/+cpu//' > deploy/constraints.txt && rm -rf .venv-image

.venv/made:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'tuner needs Python 3.11 or later; name one with make PYTHON=...')"
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev,metrics,postgres,ray,s3,stories]'
	touch $@

.venv/browser: .venv/made
	command -v chromium >/dev/null || { command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no chromium: the tests that need a browser are skipped"
	touch $@

clean:
	rm -rf .venv
