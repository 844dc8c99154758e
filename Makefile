# Each target installs what it needs into $(VENV) and changes nothing outside the repository.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Length of `make soak`, in minutes.
MINUTES ?= 30

.PHONY: demo app study test style docs soak
.DELETE_ON_ERROR:

demo: $(VENV)/installed-viz,probe
	$(RUN) scripts/demo.py

app: $(VENV)/installed-app
	$(RUN) -m transformers_vjepa app

study: $(VENV)/installed-viz,probe
	$(RUN) scripts/study.py

test: $(VENV)/installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest -n logical --maxprocesses 4

docs: $(VENV)/installed-docs
	$(RUN) -m sphinx -W -b html docs build/docs

soak: $(VENV)/installed-test
	$(RUN) benchmarks/soak.py --minutes $(MINUTES)

style: $(VENV)/installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

.PHONY: test-transformers
# The checkout of transformers whose tests `make test-transformers` runs. By default, that of the installed version.
TRANSFORMERS_CHECKOUT ?= build/transformers

test-transformers: $(VENV)/installed-test $(TRANSFORMERS_CHECKOUT)
	$(RUN) -m pip install --quiet parameterized
	TRANSFORMERS_CHECKOUT=$(TRANSFORMERS_CHECKOUT) $(RUN) -m pytest -W ignore tests/transformers_suite.py

build/transformers: $(VENV)/installed-test
	rm -rf $@
	version=$$($(RUN) -c "import transformers; print(transformers.__version__)") && \
	git clone --quiet --depth 1 --branch "v$$version" https://github.com/huggingface/transformers $@

.PHONY: test-fast build test-oldest test-wheel
# Two more environments, created again at each call: the oldest versions that setup.cfg admits, and the wheel alone.
OLDEST = .venv-oldest
WHEEL = .venv-wheel

test-fast: $(VENV)/installed-test
	$(RUN) -m pytest -n logical --maxprocesses 4 -m "not slow"

build: $(VENV)/installed-test
	rm -rf dist
	$(RUN) -m build --outdir dist
	$(RUN) -m twine check --strict dist/*

# Without torchcodec, because each release of torchcodec works with one release of torch only.
test-oldest: build
	$(PYTHON) -m venv --clear $(OLDEST)
	$(RUN) tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt "$$(echo dist/*.whl)[test]"
	$(OLDEST)/bin/python -m pip uninstall --quiet --yes torchcodec
	$(OLDEST)/bin/python -m pytest -n logical --maxprocesses 4 -m "not slow"

test-wheel: build
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet dist/*.whl
	$(WHEEL)/bin/python -m pip check
	$(WHEEL)/bin/python tests/installed.py

$(VENV)/installed-%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[$*]'
	touch $@
