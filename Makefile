# Everything this project can be asked to do.  Needs Python 3.11 or newer, git and make; without a Java, one is installed.

CONFIG = conf/benchmark/demo.yaml
CONTRACT = tests/test_contract.py tests/test_pipeline.py
STREAMS = $(addprefix tests/streaming/,test_one_object.py test_query.py test_state_counts.py)
MATERIALIZE = tests/feed/test_feed_parquet.py
# Parts of the suite that take as long as the rest of it, and as long as Connect's contract with what runs after it.
JOBS = tests/jobs tests/feed tests/training $(wildcard tests/test_adviser.py tests/test_cli.py tests/test_docs.py tests/test_report*.py)
BESIDE = tests/evaluation tests/streaming
ELSEWHERE = $(JOBS) $(BESIDE)

JARS := $(wildcard ../shared/jars)
ifneq ($(JARS),)
export SPARKIMB_JARS ?= $(abspath $(JARS))
endif

.PHONY: help env demo test test-contract test-faults lint test-oldest test-newest benchmark lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /make \1\t/p' Makefile

env: .venv/.ready  ## make .venv, with exactly the packages of .lock/dev.txt
	@.ci/setup-java .venv

demo: env  ## balance a small data set and show what changed
	.ci/with .venv sparkimb balance --config conf/balance/demo.yaml

test: env  ## all tests on classic Spark, and the contract on Spark Connect
	.ci/with .venv .ci/test "classic $(ELSEWHERE:%=--ignore=%)" "classic $(JOBS)" "connect $(CONTRACT); classic $(BESIDE)"

test-contract: env  ## what takes long: the rest of the contract, and on Spark Connect evaluation, streams and materialize
	.ci/with .venv .ci/test "classic -m slow" "connect -m slow $(CONTRACT) tests/evaluation $(STREAMS) $(MATERIALIZE)"

test-faults: env  ## kill streaming drivers at every point of a batch, and compare what they leave (10 minutes)
	.ci/with .venv python -m pytest -m faults tests/streaming

lint: env  ## style, format and types
	.ci/with .venv ruff check --no-cache
	.ci/with .venv ruff format --check --no-cache
	.ci/with .venv mypy

test-oldest:  ## the contract and the feed on the oldest versions that pyproject.toml allows
test-newest:  ## the contract and the feed on the newest Spark
test-oldest: export PYTEST_ADDOPTS = -W "ignore:unclosed <socket:ResourceWarning"  # pyspark 4.0 never closes its own
test-oldest test-newest: test-%: .venv-%/.ready
	@.ci/setup-java .venv-$*
	.ci/with .venv-$* .ci/test "classic $(CONTRACT) tests/evaluation tests/feed" "connect $(CONTRACT)"

benchmark: env  ## measure what CONFIG=file.yaml asks for
	.ci/with .venv python jobs/benchmark.py --config $(CONFIG)

lock: env  ## write .lock/*.txt anew from pyproject.toml and .lock/*.in (newest versions: LOCK_FLAGS=--upgrade)
	.ci/with .venv .lock/compile $(LOCK_FLAGS)

clean:  ## remove the environments
	rm -rf .venv .venv-oldest .venv-newest

.venv/.ready: pyproject.toml .lock/build.txt .lock/torch.txt .lock/dev.txt
	@.ci/setup-python .venv .lock/dev.txt

.venv-%/.ready: pyproject.toml .lock/build.txt .lock/torch.txt .lock/%.txt
	@.ci/setup-python .venv-$* .lock/$*.txt
