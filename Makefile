# Everything a developer runs. `make` alone lists the targets.

PYTHON ?= python3
# Another Python than the usual one gets an environment of its own, beside that.
VENV := .venv$(if $(filter-out file default,$(origin PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
SYNCED := $(VENV)/.synced
# A uv on the path, else one of our own in .tools/.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)

export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup servers test newest check demo campaign fuzz bench bench-quick release lock

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(SYNCED) ## make .venv with exactly what requirements.lock names, and this package

servers: ## get the servers that the tests run against (see scripts/get-servers)
	@scripts/get-servers

# Three at once, since most tests wait for a server now and then.
test: $(SYNCED) servers ## run the tests; ARGS='-k name' goes to pytest, PYTHON=python3.13 is another one
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

# The libraries whose insides are used have upper bounds; this goes past them.
newest: $(UV) servers ## try the newest releases of redis-py, PyMongo and uvicorn, whatever their bounds
	$(UV) venv --quiet --python $(PYTHON) --allow-existing .venv-newest
	printf 'redis\npymongo\nuvicorn\n' | $(UV) pip install --quiet --python .venv-newest/bin/python --upgrade --overrides - --group dev -e '.[serve]'
	.venv-newest/bin/python -c 'import pymongo, redis, uvicorn; print(redis.__version__, pymongo.version, uvicorn.__version__)'
	.venv-newest/bin/python -m pytest -n 2 tests/sinks/test_contract.py tests/sinks/test_redis.py tests/sinks/test_mongodb.py \
		tests/service/test_attacks.py $(ARGS)

check: $(SYNCED) ## lint, format, types and layers, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict ingest_service tests benchmarks
	$(BIN)/lint-imports
	@! command -v node >/dev/null || for file in ingest_service/service/page/*.js; do \
		node --input-type=module --check <$$file || { echo "in $$file"; exit 1; }; done

demo: $(SYNCED) ## load a sample into SQLite and say what to look at next
	@scripts/demo

campaign: $(SYNCED) servers ## kill 500 loads and look for what got lost (scripts/crash-campaign); ARGS='500 7' for a seed
	$(BIN)/python scripts/crash-campaign $(ARGS)

fuzz: $(SYNCED) ## a million ugly, packed and damaged files (scripts/fuzz); ARGS='50000' for fewer
	$(BIN)/python scripts/fuzz $(ARGS)

bench: $(SYNCED) ## measure throughput (see benchmarks/)
	scripts/get-servers --bench
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(SYNCED) ## this version beside the last release, in some three minutes
	scripts/get-servers redis javamongo released
	$(BIN)/python -m benchmarks --rows 300000 --pairs 3 --only quick $(ARGS)

release: $(SYNCED) | $(UV) ## build wheel and sdist, and load the sample with the wheel in a clean environment
	UV=$(UV) scripts/release

LOCKED := --universal --python-version 3.11 --generate-hashes

lock: | $(UV) ## bring the lock files up to pyproject.toml; ARGS=--upgrade chooses every version anew
	$(UV) pip compile pyproject.toml --extra movielens --extra otel --extra parquet --extra serve --group dev $(LOCKED) -o requirements.lock $(ARGS)
	$(UV) pip compile pyproject.toml --extra movielens --extra otel --extra parquet --extra serve --constraint requirements.lock $(LOCKED) \
		-o deploy/requirements.lock
	$(UV) pip compile --group build --constraint requirements.lock $(LOCKED) -o deploy/build.lock

.tools/bin/uv:
	@$(require_python)
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv

$(BIN)/python: | $(UV)
	@$(require_python)
	$(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" --allow-existing $(VENV)

# The stamp is newer than what it was made from, so a second `make setup` has nothing to do.
$(SYNCED): requirements.lock pyproject.toml $(BIN)/python | $(UV)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --no-deps --python $(BIN)/python -e .
	@$(BIN)/python -m compileall -q ingest_service
	@touch $@

define require_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "This needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
endef
