# `make demo` and `make test` do all of their own set-up (see scripts/bootstrap.sh).
#   PYTEST_ARGS  further arguments of pytest, as in: make test PYTEST_ARGS="tests/test_dev.py -x"
#   TEST_JOBS    processes that share the tests, each with servers of its own; a file of tests stays in one
#   DEMO_ARGS    further arguments of zkmig demo, as in: make demo DEMO_ARGS=--json
#   EXAMPLE_ARGS  of the example, as in: make example EXAMPLE_ARGS=--without-guard
#   ZKMIG_BENCH  size of the benchmarks, small or full; each target below sets its own
#   MODEL_ARGS   further arguments of scripts/model.py, as in: make model MODEL_ARGS="--only NO_CURSOR"
#   TORTURE_ARGS further arguments of the torture, as in: make torture TORTURE_ARGS="--seed 7 --only leader-killed"
#   MANAGERS_ARGS  of its service managers, as in: make torture MANAGERS_ARGS="--manager plain --seed 7"
#   FUZZ_SECONDS how long to fuzz in all; FUZZ_ARGS further arguments, as in: make fuzz FUZZ_ARGS="--seed 7"

BIN := .venv/bin

TEST_JOBS ?= 3
FUZZ_SECONDS ?= 60

.PHONY: help bootstrap demo example test test-ensemble torture lint types model fuzz sanitize bench-small bench bench-huge bench-picture nightly clean

help:
	@echo "make demo         replay an outage on real servers, in about a minute"
	@echo "make example      the same night with the autoscaler behind zkmig guard"
	@echo "make test         the tests"
	@echo "make test-ensemble  the tests against a follower of an ensemble of three"
	@echo "make torture      faults, crash points, kills, controls, service managers, small heaps, the model"
	@echo "make lint         ruff: rules and format"
	@echo "make types        mypy, strict"
	@echo "make model        the model of the protocol, checked by Spin in 5 to 25 minutes (docs/protocol.md)"
	@echo "make fuzz         the decoders on spoiled input, for FUZZ_SECONDS=60 (docs/testing.md)"
	@echo "make sanitize     the compiled modules under address and undefined-behaviour sanitizers (docs/testing.md)"
	@echo "make bench-small  the benchmarks at small sizes"
	@echo "make bench        the benchmarks at full sizes"
	@echo "make bench-huge   the same with trees of a million znodes on servers"
	@echo "make bench-picture  draw what they measured"
	@echo "make nightly      the long tests, sanitizers, ten minutes of fuzzing, the benchmarks at full sizes"
	@echo "make clean        remove what the above made, the virtual environment included"

bootstrap:
	@scripts/bootstrap.sh

demo: bootstrap
	$(BIN)/zkmig demo $(DEMO_ARGS)

example: bootstrap
	$(BIN)/python -m examples.autoscaler_2016 $(EXAMPLE_ARGS)

test:
	@ZKMIG_BROWSER=1 scripts/bootstrap.sh
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

test-ensemble:
	@ZKMIG_BROWSER=1 scripts/bootstrap.sh
	ZKMIG_TEST_ENSEMBLE=1 $(BIN)/pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

torture: bootstrap
	$(BIN)/python -m tests.torture --full $(TORTURE_ARGS)
	$(BIN)/python -m tests.torture.deaths
	$(BIN)/python -m tests.torture.managers $(MANAGERS_ARGS)
	$(BIN)/pytest -m nightly --timeout=0 tests/test_small_heap.py
	@$(MAKE) --no-print-directory model

lint: bootstrap
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: bootstrap
	$(BIN)/mypy

model:
	@ZKMIG_MODEL=1 scripts/bootstrap.sh
	$(BIN)/python scripts/model.py $(MODEL_ARGS)

fuzz: bootstrap
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

sanitize: bootstrap
	scripts/sanitize.sh

bench-small: bootstrap
	ZKMIG_BENCH=small $(BIN)/pytest benchmarks $(PYTEST_ARGS)

bench: bootstrap
	ZKMIG_BENCH=full $(BIN)/pytest benchmarks --timeout=0 $(PYTEST_ARGS)

bench-huge: bootstrap
	ZKMIG_BENCH=huge $(BIN)/pytest benchmarks --timeout=0 $(PYTEST_ARGS)

bench-picture: bootstrap
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.picture

nightly: bootstrap
	$(BIN)/pytest -m nightly --timeout=0 $(PYTEST_ARGS)
	scripts/sanitize.sh
	$(BIN)/python -m tests.fuzz --seconds 600 $(FUZZ_ARGS)
	ZKMIG_BENCH=full $(BIN)/pytest benchmarks --timeout=0 $(PYTEST_ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f zkmig/_fast/*.c zkmig/_fast/*.so
	find zkmig tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
