# SPDX-License-Identifier: GPL-2.0-only
# The first command to type on a fresh machine: make run, or make test. Nothing here needs root but install.

PYTHON   ?= python3
VENV     := .venv
STAMP    := $(VENV)/.stamp
BIN      := $(VENV)/bin

# Tests start hundreds of programs, and pytest rewrites the asserts of each module: both are compiled once only.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run interfaces quick test lint unit crash demo bench torture fuzz kill-test repair-test cache-test kernel-test kernel-images-test systemd-test man dist deb package-test dashboard clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The daemon in the foreground, on an image of its own under var/. Ctrl-C stops it; the next run opens the same image.
run: $(STAMP) var/demo.img
	@./demo/run

var/demo.img: | $(STAMP)
	@mkdir -p var
	$(BIN)/bcachectl make -b 64k --size 256M $@

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Tests that repeat the same stories thousands of times are not measured: that would cost half as much again.
PLAYED   := tests/kill tests/history tests/fuzz tests/runtime/test_crash_states.py tests/runtime/test_planted_bugs.py \
            tests/runtime/test_turnover.py tests/runtime/index/test_index.py tests/runtime/test_stale_dirty.py \
            tests/runtime/test_no_livelock.py tests/runtime/test_await_points.py tests/runtime/test_large_trees.py \
            tests/runtime/test_odd_sets.py tests/state/test_model.py tests/state/test_live_model.py \
            tests/store/btree/test_write_back.py tests/store/test_journal_keys.py tests/store/test_planted_bugs.py \
            tests/store/test_power_cuts.py tests/store/rescue/test_kernel_images.py \
            tests/store/rescue/test_random_damage.py tests/store/rescue/test_bad_sectors.py \
            tests/store/repair/test_random_damage.py tests/cli/offline/test_rescue_guide.py tests/runtime/test_failing_devices.py \
            tests/damages tests/store/rescue/test_torn_writes.py

# One worker more than there are cores: many tests wait for processes. A worker that is done takes tests over from
# others, so that none of them ends with the long ones alone.
WORKERS  := $(shell expr $$(nproc) + 1)
SPREAD   := -n $(WORKERS) --dist worksteal

unit: $(STAMP)
	$(BIN)/pytest -q $(SPREAD) --cov --cov-report=term --cov-fail-under=85 $(addprefix --ignore=,$(PLAYED))

crash: $(STAMP)
	$(BIN)/pytest -q $(SPREAD) $(PLAYED)

# All that CI runs, one after the other also under make -j: the parts would compete for the same cores.
test: lint unit crash
.NOTPARALLEL:

# Between two edits, under a minute on two idle cores: lint, types, and the tests of what needs no daemon.
QUICK    := tests/format tests/wire tests/state tests/device tests/client/protocol tests/test_tidy.py \
            tests/test_repository.py

quick: lint
	$(BIN)/pytest -q -n auto $(QUICK) $(addprefix --ignore=,$(PLAYED))

# Writes the types that bcached/set_state.py and index_state.py declare into the .varlink files.
interfaces: $(STAMP)
	$(BIN)/python -m tests.instruments.interface_types

# A client session against a daemon of its own, in a temporary directory; ends by itself.
demo: $(STAMP)
	$(BIN)/python -m demo.session

bench: $(STAMP)
	$(BIN)/python -m bench

# Power cuts in random stories until Ctrl-C. A case that fails is repeated by its name:
# make torture TORTURE="chance:17". With a time limit: TORTURE="--seconds 3600".
torture: $(STAMP)
	$(BIN)/python -m tests.torture $(TORTURE)

# Sets changed at random, structure by structure: check and open must agree, and a set that opens must keep working.
# make fuzz FUZZ="--cases 1000 --seed 7", or FUZZ="one:17" to repeat a case.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# A thousand kills of the daemon under load, and two hundred power cuts on a recorded block device; then some of both
# under a cache of objects. Power cuts need root and qemu-storage-daemon.
kill-test: $(STAMP)
	$(BIN)/python -m tests.kill

# Sets damaged at random and repaired, a thousand times as many as in make test; then everything in the kernel's images
# damaged one at a time and in pairs, with a table of what a rescue brings back. A sample: make repair-test DAMAGES="--each 1".
DAMAGES  ?= --each 20 --pairs 50
repair-test: $(STAMP)
	BCACHED_REPAIRS=16000 $(BIN)/pytest -q $(SPREAD) tests/store/repair/test_random_damage.py
	$(BIN)/python -m tests.damages $(DAMAGES)

# A million calls of several processes on one cache, with kills, pauses, evictions and deleted volumes; then direct writes
# beside buffered reads. Ten millions: make cache-test CACHE_TEST="--calls 10000000", half an hour on two cores.
CACHE_TEST ?= --calls 1000000
cache-test: $(STAMP)
	$(BIN)/python -m tests.history $(CACHE_TEST)
	$(BIN)/python -m tests.history --direct-writes --storage ext4 --calls 100000
	$(BIN)/python -m tests.history --direct-writes --storage xfs --calls 100000
	$(BIN)/python -m tests.history --direct-writes --storage loop --calls 100000

# The real kernel under qemu: needs qemu-system-x86_64 and, once, Debian's kernel package from a mirror. The newer
# of its kernels: make kernel-test KERNEL=6.12
KERNEL   ?= 6.1
kernel-test: $(STAMP)
	$(BIN)/python -m tests.kernel --kernel $(KERNEL)

# Sets of all kinds that the kernel makes, rescued and compared: kernel-test has a sample of them.
kernel-images-test: $(STAMP)
	$(BIN)/python -m tests.kernel --kernel $(KERNEL) rescue images

# A real systemd in a container without a network, which runs README's "As a service" word for word: needs root,
# systemd-nspawn and, once, debootstrap and a mirror.
systemd-test: $(STAMP)
	$(BIN)/python -m tests.systemd

# The man pages and completion files, as below a prefix's share/: man -l build/share/man/man8/bcachectl.8
man: $(STAMP)
	$(BIN)/python -m manual build/share

# The source distribution, and the wheel built from it, in dist/.
dist: $(STAMP)
	$(BIN)/python -m build -o dist .

# A Debian package, for the Debian it is built on, in dist/.
deb:
	deb/make dist

# The distributions and the Debian package, built, installed, upgraded and removed in clean Debians without a network: needs
# what systemd-test needs.
package-test: $(STAMP)
	$(BIN)/python -m tests.package

# The Grafana dashboard, drawn from a daemon at work: the picture, and what each query returns. Needs prometheus.
dashboard: $(STAMP)
	mkdir -p build
	$(BIN)/python -m tests.monitoring build/dashboard.svg

include install.mk

clean:
	rm -rf $(VENV) var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
