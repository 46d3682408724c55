# Two commands need nothing but Python 3.11 and a package registry:
#   make demo   the whole chain, from physics to a page of evidence
#   make test   lint, types, import arrows and the test suite
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO_HOME ?= .

.PHONY: demo smoke test test-mjlab test-isaaclab test-isaaclab3 test-lerobot test-d3rlpy test-browser test-ray docs lint types pytest format clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/rwm demo --home $(DEMO_HOME)

smoke: .venv/ready
	$(BIN)/rwm demo --smoke --home $(DEMO_HOME)

test: lint types pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

pytest: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# mjlab pins another rsl-rl-lib than we do, so it has an environment of its own.
.venv-mjlab/ready: pyproject.toml
	$(PYTHON) -m venv .venv-mjlab
	.venv-mjlab/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 mjlab==1.6.0 'pytest>=8' -e .
	touch $@

test-mjlab: .venv-mjlab/ready
	OMP_NUM_THREADS=1 .venv-mjlab/bin/pytest tests/mjlab

# What Isaac Lab 2.3 pins, as far as it can be installed without its simulator: the core and the adapter work there.
.venv-isaaclab/ready: pyproject.toml constraints-isaaclab.txt
	$(PYTHON) -m venv .venv-isaaclab
	.venv-isaaclab/bin/pip install --quiet --disable-pip-version-check -c constraints-isaaclab.txt torch==2.13.0 \
		'pytest>=8' -e '.[hdf5]'
	.venv-isaaclab/bin/pip install --quiet --disable-pip-version-check --no-deps rsl-rl-lib==3.0.1
	touch $@

test-isaaclab: .venv-isaaclab/ready
	OMP_NUM_THREADS=1 .venv-isaaclab/bin/pytest tests/rwmdata tests/rwmmodel tests/rwmrl/test_manager_based.py \
		tests/rwmrl/test_rewards.py tests/rwmrl/test_velocity_commands_observations.py tests/rwmrl/test_policy_file.py tests/rwmrl/test_rsl_rl_checkpoint.py

# Isaac Lab 3.0 for real, on Newton (MuJoCo-Warp), without Omniverse, GPU or asset server. What it declares needs Python
# 3.12, several gigabytes and NVIDIA's registry; what it uses for a task is named here, and runs on 3.11 too.
.venv-isaaclab3/ready: pyproject.toml constraints-isaaclab3.txt
	$(PYTHON) -m venv .venv-isaaclab3
	.venv-isaaclab3/bin/pip install --quiet --disable-pip-version-check -c constraints-isaaclab3.txt torch 'newton[sim]' \
		usd-exchange newton-usd-schemas gymnasium hydra-core prettytable trimesh lazy-loader psutil 'pytest>=8' -e '.[mujoco,rl,hdf5]'
	.venv-isaaclab3/bin/pip install --quiet --disable-pip-version-check -c constraints-isaaclab3.txt --no-deps \
		--ignore-requires-python isaaclab
	touch $@

# The first run compiles kernels, which are kept in the user's cache; later ones take two thirds of its processor time.
test-isaaclab3: .venv-isaaclab3/ready
	OMP_NUM_THREADS=1 .venv-isaaclab3/bin/pytest tests/isaaclab3

# lerobot pins an older torch and much that only images and robots need; what its dataset needs is named here.
.venv-lerobot/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lerobot
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 'pytest>=8' 'datasets<4.2' accelerate av \
		deepdiff draccus==0.10.0 einops gymnasium jsonlines psutil -e .
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check --no-deps lerobot==0.4.3
	touch $@

test-lerobot: .venv-lerobot/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-lerobot/bin/pytest tests/lerobot

# d3rlpy pins another gymnasium than we do, and brings gym, which is no longer maintained.
.venv-d3rlpy/ready: pyproject.toml
	$(PYTHON) -m venv .venv-d3rlpy
	.venv-d3rlpy/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 'pytest>=8' -e '.[d3rlpy,mujoco]'
	touch $@

test-d3rlpy: .venv-d3rlpy/ready
	OMP_NUM_THREADS=1 .venv-d3rlpy/bin/pytest tests/d3rlpy

# What runs on a Ray cluster, on one of two nodes on this machine; make test skips these where ray is missing.
test-ray: .venv/ready
	$(BIN)/python -c 'import ray'
	OMP_NUM_THREADS=1 RWM_RAY_CLUSTER=1 $(BIN)/pytest tests/rwmrl/test_export_parts.py tests/rwmrl/test_sweep.py -k ray

# The pages of rwm report and rwm visualize in a real browser; make test skips these where there is no Chromium.
test-browser: .venv/ready
	@for name in $$CHROMIUM chromium chromium-browser google-chrome; do command -v $$name && found=yes; done; \
		test "$$found" || { echo 'no Chromium here: apt-get install chromium, or CHROMIUM=/path/to/it'; exit 1; }
	$(BIN)/pytest tests/reports/page/test_report_browser.py tests/reports/visualize/test_visualize_browser.py

# The documentation as a site, site/index.html. Names and docstrings are read from the source, so nothing of ours is installed.
.venv-docs/ready: Makefile
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.2 \
		'mkdocstrings[python]==1.0.8' ruff==0.17.5
	touch $@

docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo 'open site/index.html; with the search: python3 -m http.server -d site'

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
