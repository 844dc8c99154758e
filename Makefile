# Everything sets itself up in $(VENV); nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# How long `make soak` takes.
MINUTES ?= 30

.PHONY: demo study test style docs soak
.DELETE_ON_ERROR:

demo: $(VENV)/installed-viz,probe
	$(RUN) scripts/demo.py

study: $(VENV)/installed-viz,probe
	$(RUN) scripts/study.py

test: $(VENV)/installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest

docs: $(VENV)/installed-docs
	$(RUN) -m sphinx -W -b html docs build/docs

soak: $(VENV)/installed-test
	$(RUN) benchmarks/soak.py --minutes $(MINUTES)

style: $(VENV)/installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(VENV)/installed-%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[$*]'
	touch $@
