# make demo          text from the bundled model, after a set-up with what inference needs
# make test          lint, types and the tests, some minutes on two cores, after the rest of the set-up
# make test-all      the slow tests and the site too, and all as XLA compiles for users
# make fuzz          drawn faults of files and options for an hour: SECONDS=3600 SEED=1 KINDS=config
# make fuzz-hosts    drawn faults of the hosts of a pod for half an hour, as root on Linux
# make lint          lint and types alone
# make tpu-compiler  what `neox-eqx plan` compiles with
# make package       tries the wheel with nothing but what it needs: VERSIONS=lowest PYTHON=python3.11
# make docs          the site, into site/; the script of its drawings comes by npm
# make pin           writes the hashes of what the lists of requirements pin
PYTHON ?= python3
# One more than cores: many tests wait for programs, which wait for each other.
JOBS ?= 3
# Each process begins with a part of the files, as tests of a file share programs, and ends with what
# others have left.
SHARED = -n $(JOBS) --dist worksteal
SECONDS ?= 3600
VERSIONS ?= newest
BIN := .venv/bin
READY := .venv/ready
TEST_READY := .venv/test-ready
TPU_COMPILER := .venv/tpu-compiler/ready
DOCS := .venv/docs
MERMAID := docs/assets/mermaid.min.js
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-compile
# As pip would do by itself, but on all cores and without the tests of the packages. Files that are no
# Python, as templates, stay as they are.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true

# Tests and the programs that they start compile a file of Python once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick-tests test-all package fuzz fuzz-hosts lint docs tpu-compiler pin
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/python generate.py

# Both at once: the tests leave a core idle now and then.
test: $(TEST_READY) $(TPU_COMPILER)
	$(MAKE) --no-print-directory --jobs 2 lint quick-tests

# First without a check of the types of each call; then those that show these; then what XLA has to
# compile as it does for users. The last two are in few files, and others need not be looked at.
quick-tests: $(TEST_READY) $(TPU_COMPILER)
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest $(SHARED) --quick-compile \
	    -m "not (slow or optimised or typed)"
	$(BIN)/python -m pytest $(SHARED) --quick-compile -m "typed and not slow" \
	    $$(grep -rl --include "*.py" mark.typed tests)
	$(BIN)/python -m pytest $(SHARED) -m "optimised and not slow" \
	    $$(grep -rl --include "*.py" mark.optimised tests)

test-all: lint docs $(TPU_COMPILER)
	$(BIN)/python -m pytest $(SHARED)

package: $(READY)
	$(BIN)/python -m tests.clean_environment --versions $(VERSIONS) --python $(PYTHON)

# Each find is a file in fuzz-finds/, and `python -m tests.fuzz --replay FILE` runs it again.
fuzz: $(TEST_READY)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) --kinds $(KINDS)

fuzz-hosts: SECONDS = 1800
fuzz-hosts: $(TEST_READY)
	$(BIN)/python -m tests.fuzz.hosts --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beside the tests' packages, as notebooks run for it. Material says on each build that MkDocs 2 will
# not suit it: 1.6 is pinned.
docs: $(DOCS)/ready $(MERMAID)
	PYTHONPATH=$(CURDIR)/$(DOCS) JUPYTER_PATH=$(CURDIR)/$(DOCS)/share/jupyter NO_MKDOCS_2_WARNING=1 \
	    PYTHONWARNINGS="ignore:IProgress not found" PATH="$(CURDIR)/$(BIN):$$PATH" \
	    $(BIN)/python -m mkdocs build

$(DOCS)/ready: requirements-docs.txt $(TEST_READY)
	rm -rf $(@D)
	$(INSTALL) --require-hashes --target $(@D) -r requirements-docs.txt
	touch $@

$(MERMAID):
	npm pack --silent --pack-destination .venv mermaid@11.16.0
	tar -xzf .venv/mermaid-11.16.0.tgz -C $(@D) --strip-components 2 package/dist/$(@F)
	echo "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b  $@" | sha256sum --check --quiet

# A stamp is newer than what it was made from, so each set-up runs once. A list is all that its set-up
# installs, and nothing comes that it does not have. The package itself is built with the setuptools
# that is there by then.
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-build-isolation -e .
	$(COMPILE)
	touch $@

# Of torch a listed build in a directory of pip's settings (PIP_FIND_LINKS), as the small one for CPUs,
# goes before the index's, which for Linux needs the libraries of CUDA.
$(TEST_READY): requirements-test.txt requirements-cuda.txt | $(READY)
	awk '/^[^ ]/ {own = /^torch==/} own' requirements-test.txt > .venv/torch.txt
	$(INSTALL) --no-index --require-hashes -r .venv/torch.txt 2> /dev/null || true
	$(INSTALL) --require-hashes -r requirements-test.txt
	$(BIN)/python -c "import torch" 2> /dev/null || $(INSTALL) --require-hashes -r requirements-cuda.txt
	$(COMPILE)
	touch $@

tpu-compiler: $(TPU_COMPILER)

$(TPU_COMPILER): requirements-plan.txt | $(READY)
	rm -rf $(@D)
	$(INSTALL) --require-hashes --target $(@D) -r requirements-plan.txt
	touch $@

pin:
	$(PYTHON) scripts/pin.py
