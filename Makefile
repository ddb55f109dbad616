PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# What runs on hosts is shell in its own files, none of it rendered; these are all others.
SCRIPTS = $(shell grep -rlE '^\#!/(usr/)?bin/(env )?(ba)?sh' images .ci)
DOCKERFILES = $(shell find images examples tests -name Dockerfile)

# What a test leaves out of the everyday run; the rest of tests/lab in two parts, of which one wants no hosts.
EVERYDAY := not proof and not audit
# Unit tests have a worker more than there are cores, for some of them wait.
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Where it is set, each of some hundred processes would compile all of Fiefdom, and each worker all tests, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test tools check audit proof lint docs reference screenshots pip-audit lock bases bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

venv: $(STAMP) ## make .venv with Fiefdom and its tools

demo: venv ## bare hosts on this machine, converged, serving behind their gateway
	@$(VENV)/bin/fiefdom demo

# What tests ask beside Python: where one lacks, better now than in half an hour. Root on Debian gets them, in the runlevel
# in which packages start nothing.
TOOLS := /usr/sbin/sshd:openssh-server chromium:chromium prometheus:prometheus promtool:prometheus /usr/sbin/haproxy:haproxy serf:serf
tools:
	@missing=$$(for each in $(TOOLS); do command -v "$${each%:*}" >/dev/null || echo "$${each#*:}"; done | sort -u | paste -sd' '); \
	  [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && echo "installing $$missing, which tests ask" \
	       && apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing fonts-dejavu-core > /dev/null; } \
	  || { echo "Tests want Debian packages that lack here: sudo RUNLEVEL=1 apt-get install --no-install-recommends $$missing" >&2; exit 1; }

test: venv tools ## every test but the longest, with its lab: about 30 minutes on two cores
	@echo 'Tests on real hosts on this machine, and beside them all others: about 30 minutes on two cores.'
	@echo 'The share of those on hosts is in brackets; the others tell their end.'
	@$(MAKE) --no-print-directory --jobs 2 hosts beside

# One lab's tests, one after the other. They wait for hosts now and then, so the others run beside them with what is left.
.PHONY: hosts beside
hosts: venv
	@$(VENV)/bin/pytest --verbose --durations 15 -m '$(EVERYDAY) and hosts' tests/lab

BESIDE := $(VENV)/beside.log
beside: venv
	@{ nice $(VENV)/bin/pytest -q --numprocesses $(WORKERS) --dist worksteal tests/unit; unit=$$?; \
	   nice $(VENV)/bin/pytest -q --durations 15 --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	     -m '$(EVERYDAY) and not hosts' tests/lab && [ $$unit = 0 ]; } > $(BESIDE) 2>&1 || { cat $(BESIDE); exit 1; }
	@grep -E '^[0-9]+ passed' $(BESIDE)

# Whole files, for the tests beside a proof are what it stands on.
PROOFS = $(shell grep -lE 'mark\.proof' tests/lab/test_*.py)
proof: venv ## every planned event, loss and lock-out, the longest ones too: more than an hour
	$(VENV)/bin/pytest -m "proof or not proof" $(PROOFS)

check: lint ## the inner loop: lint, types and the unit tests below a second; about two minutes on two cores
	$(VENV)/bin/pytest -q --numprocesses $(WORKERS) --dist worksteal --durations 5 -m 'not long' tests/unit

# mypy has one core to itself, and lets none of the others wait. The output of each is in one piece.
lint: venv ## what CI checks without running anything
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style scripts

.PHONY: types style scripts
types: venv
	$(VENV)/bin/mypy

style: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

scripts: venv
	$(VENV)/bin/shellcheck $(SCRIPTS)
	$(VENV)/bin/shellcheck --shell sh deploys/fiefdom/*/*.sh
	$(VENV)/bin/hadolint $(DOCKERFILES)

# Not --quiet: what is not logged is no failure to --strict either. The variable silences the theme's advertisement.
docs: venv ## build the pages into site/; a broken link fails it
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

reference: venv ## write anew what is made from the model and the commands: the schema and two pages
	$(VENV)/bin/python -m fiefdom.cli.write_pages

screenshots: venv ## draw the pictures of the gateway's page in docs/assets anew, with Debian's chromium
	FIEFDOM_SCREENSHOTS=1 $(VENV)/bin/pytest -q -k pictures tests/unit/containers/test_page_browser.py

pip-audit: venv ## known vulnerabilities of what is locked
	@$(VENV)/bin/python .ci/audit_lock.py requirements.lock .ci/pip-audit.exceptions

lock: venv ## write requirements.lock anew: newest versions that pyproject.toml allows, for every Python from 3.10 on
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --custom-compile-command 'make lock' --extra dev --output-file requirements.lock pyproject.toml

bases: venv ## pin the base images that the registry has today
	$(VENV)/bin/python -m fiefdom.images.bases

bench: demo ## measure runs, releases, joins, throughput and growth, each as a ratio
	$(VENV)/bin/python bench/noop.py
	$(VENV)/bin/python bench/rollout.py
	$(VENV)/bin/python bench/join.py
	$(VENV)/bin/python bench/throughput.py
	$(VENV)/bin/python bench/scale.py
	$(VENV)/bin/python bench/gateway.py
	$(VENV)/bin/python bench/fanout.py

# The lab needs nothing but the standard library, so this works without .venv.
define LAB_DOWN
import sys
sys.path.append("deploys") # not PYTHONPATH: deploys/site.py would stand in for Python's own `site`
from fiefdom import lab
from fiefdom.errors import FiefdomError
try:
    lab.down(print, images=True)
except FiefdomError as error:
    sys.exit(str(error))
endef
export LAB_DOWN

clean: ## remove the lab with its images, .venv and caches
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -c "$$LAB_DOWN"
	@rm -f deploys/fiefdom/_version.py
	@rm -rf $(VENV) .bench-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

define fail_unless
$(1) || { echo $(2) >&2; exit 1; }
endef

$(STAMP): pyproject.toml requirements.lock
	@$(call fail_unless,command -v $(PYTHON) > /dev/null,"There is no $(PYTHON) here: install Python 3.10 or newer.")
	@$(call fail_unless,$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))',"$(PYTHON) is too old: install Python 3.10 or newer and say where it is: make PYTHON=/path/to/python3.")
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && echo 'installing python3-venv' \
	       && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3-venv > /dev/null; } \
	  || { echo '$(PYTHON) cannot make virtual environments: sudo apt-get install python3-venv, then try again.' >&2; exit 1; }
	@echo 'installing Fiefdom into $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: audit
audit: demo ## what the field's scanners say of the demo's hosts
	$(VENV)/bin/pytest -m audit tests/audit
