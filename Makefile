# make demo    classify a photograph with the model that comes along; IMAGE=... another one, WEIGHTS=... with those
# make test    all tests
# make lint    ruff, mypy and the layers of imports
# make test-optimum   the test with optimum-onnx, which brings PyTorch and older versions of much else
# make peers   fetch transformers.js, with which the tests load published models (needs npm)
# make web     fetch onnxruntime-web, with which the web page runs models in the browser (needs npm)
# make lock    choose the newest versions of what the server needs, with their hashes, for the container
# make sbom    write what the server consists of, as CycloneDX, to dist/
# make base-image, make image   name the container's base by its digest; build the container on it (needs Docker)
# Each makes the virtual environments that it needs.

# $(call first_python,CONDITION,NAMES): the first of these interpreters that is there and fulfils the condition.
first_python = $(firstword $(foreach name,$(2),$(if $(shell \
	$(name) -c 'import sys; sys.exit(not $(1))' 2>/dev/null && echo yes),$(name))))
PYTHON ?= $(or $(call first_python,0x30b0000 <= sys.hexversion,python3 python3.14 python3.13 python3.12 python3.11),python3)
# The exporter's libraries have wheels for Python 3.11 and 3.12 only.
EXPORT_PYTHON ?= $(call first_python,0x30b0000 <= sys.hexversion < 0x30d0000,python3.12 python3.11 $(PYTHON))

RUNTIME := .venv/installed-runtime
DEV := .venv/installed-dev
EXPORT := .venv-export/installed
TRAIN := .venv-train/installed
PADDLE2 := .venv-paddle2/installed
HUB1 := .venv-hub1/installed
CLIENTS := .venv-clients/installed
WEB := ghostzoo/serve/page/vendor
OPTIMUM := .venv-optimum/installed
PEERS := tests/hub/node/node_modules
RELEASE := .venv-release/installed

DOCKER ?= docker
BASE ?= python:3.13-slim
# Such as python:3.13-slim@sha256:...; 'make base-image' writes it to the Dockerfile.
BASE_IMAGE ?= $(shell sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' ghostzoo/_version.py)

IMAGE ?= examples/chelsea.png
MODEL ?= $(patsubst %_pretrained.pdparams,%,$(notdir $(WEIGHTS)))

# One pip at a time fills an environment, and one that could not be made is made anew.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-runtime test-hub1 test-training test-exporters test-optimum lint web peers bench-peers clean lock sbom \
	base-image image

ifeq ($(WEIGHTS),)
demo: $(RUNTIME)
	.venv/bin/ghostzoo predict "$(IMAGE)"
else
demo: $(RUNTIME)
	.venv/bin/ghostzoo convert --model "$(MODEL)" --weights "$(WEIGHTS)" --out "bundles/$(MODEL)" --overwrite
	.venv/bin/ghostzoo predict "$(IMAGE)" --model "bundles/$(MODEL)"
endif

test: test-runtime test-hub1 test-training test-exporters

# Without npm the tests of the web page and those on Node are skipped, saying so.
test-runtime: $(DEV) $(if $(EXPORT_PYTHON),$(CLIENTS)) $(if $(shell command -v npm),web peers)
	$(if $(EXPORT_PYTHON),GHOSTZOO_CLIENTS_PYTHON=.venv-clients/bin/python) \
		.venv/bin/python -m pytest tests --ignore tests/exporters --ignore tests/training

# The same tests with the older line of the Hub's client.
test-hub1: $(HUB1)
	.venv-hub1/bin/python -m pytest tests/fetch/test_hub.py tests/hub/test_any_hub.py tests/hub/test_loopback_hub.py tests/hub/test_publish.py

ifeq ($(EXPORT_PYTHON),)
test-training: $(TRAIN)
	.venv-train/bin/python -m pytest tests/training

test-exporters:
	@echo "The exporter's tests were not run: PaddlePaddle needs Python 3.11 or 3.12, and neither was found." >&2
else
test-training: $(TRAIN) $(EXPORT)
	GHOSTZOO_PADDLE_PYTHON=.venv-export/bin/python .venv-train/bin/python -m pytest tests/training

test-exporters: $(DEV) $(EXPORT) $(PADDLE2)
	GHOSTZOO_RUNTIME_PYTHON=.venv/bin/python GHOSTZOO_PADDLE2_PYTHON=.venv-paddle2/bin/python \
		.venv-export/bin/python -m pytest tests/exporters
	.venv-export/bin/python -m pytest tests/engines/test_contract.py -k paddle
endif

test-optimum: $(DEV) $(OPTIMUM)
	GHOSTZOO_OPTIMUM_PYTHON=.venv-optimum/bin/python .venv/bin/python -m pytest tests/hub/test_optimum.py

lint: $(DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

peers: $(PEERS)/.package-lock.json

$(PEERS)/.package-lock.json: tests/hub/node/package-lock.json
	cd tests/hub/node && npm ci --ignore-scripts --no-audit --no-fund

web: $(WEB)/LICENSE

# onnxruntime-web's package has no licence file; the Python package of the same project has it, and the notices.
$(WEB)/LICENSE: exporters/web/package-lock.json $(RUNTIME)
	cd exporters/web && npm ci --ignore-scripts --no-audit --no-fund
	rm -rf $(WEB) && mkdir -p $(WEB)
	cd exporters/web/node_modules/onnxruntime-web/dist && \
		cp ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm $(CURDIR)/$(WEB)/
	cp "$$(.venv/bin/python -c 'import onnxruntime; print(onnxruntime.__path__[0])')"/ThirdPartyNotices.txt $(WEB)/
	cp "$$(.venv/bin/python -c 'import onnxruntime; print(onnxruntime.__path__[0])')"/LICENSE $@

LOCK = .venv-release/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# One file for all supported versions of Python and all systems. What builds the package runs its own code, too.
lock: $(RELEASE)
	$(LOCK) --extra serve --output-file requirements.lock pyproject.toml
	.venv-release/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) --output-file requirements-build.lock -

sbom: $(RELEASE)
	mkdir -p dist
	.venv-release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON requirements.lock \
		| .venv-release/bin/python -c 'import json, sys; sbom = json.load(sys.stdin); sbom["metadata"]["component"]["version"] = sys.argv[1]; json.dump(sbom, sys.stdout, indent=2)' $(VERSION) \
		> dist/ghostzoo-$(VERSION).cdx.json

base-image:
	digest=$$($(DOCKER) buildx imagetools inspect --format '{{.Manifest.Digest}}' "$(BASE)") && \
		sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$(BASE)@$$digest|" Dockerfile
	grep '^ARG BASE_IMAGE=' Dockerfile

image:
	@echo "$(BASE_IMAGE)" | grep -Eq '@sha256:[0-9a-f]{64}$$' || { \
		echo "The base of a released container is named by its digest, and BASE_IMAGE is '$(BASE_IMAGE)'; run 'make base-image' and commit the Dockerfile." >&2; exit 1; }
	$(DOCKER) build --build-arg "BASE_IMAGE=$(BASE_IMAGE)" --tag "ghostzoo:$(VERSION)" .

clean:
	rm -rf .venv .venv-peers .venv-release .bench-models .venv-train .venv-export .venv-clients .venv-hub1 .venv-paddle2 .venv-optimum bundles $(WEB) exporters/web/node_modules $(PEERS)

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(RUNTIME): .venv/bin/python pyproject.toml
	.venv/bin/python -m pip install --quiet --editable .
	@touch $@

# pnnx asks for PyTorch, which it does not need to convert from ONNX.
$(DEV): .venv/bin/python pyproject.toml
	.venv/bin/python -m pip install --quiet --editable ".[dev]"
	.venv/bin/python -m pip install --quiet --no-deps pnnx
	@touch $(RUNTIME) $@

# An environment of its own: PyTorch is large. One version, so that a failure is ours; pip takes a CPU build of it where
# its settings offer one (CONTRIBUTING.md).
$(TRAIN): pyproject.toml
	$(PYTHON) -m venv .venv-train
	.venv-train/bin/python -m pip install --quiet --editable ".[train]" "torch==2.13.0" tensorboard "pytest>=8"
	@touch $@

# An environment of its own, apart from the tests' others: optimum-onnx pins a Hub client before 1.0.
$(OPTIMUM):
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet "optimum-onnx[onnxruntime]==0.1.0" "torch==2.13.0" pillow
	@touch $@

# An environment of its own: paddle2onnx pins an old onnx.
$(EXPORT): pyproject.toml
	$(EXPORT_PYTHON) -m venv .venv-export
	.venv-export/bin/python -m pip install --quiet --editable ".[export]" "pytest>=8"
	@touch $@

# The clients of other people's servers, which bring many packages and know the same Python versions.
$(CLIENTS):
	$(EXPORT_PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet "tritonclient[http,grpc]>=2.50" "kserve>=0.15"
	@touch $@

# The Hub's client 1.x stands on other libraries than 2.x, and both are supported.
$(HUB1): pyproject.toml
	$(PYTHON) -m venv .venv-hub1
	.venv-hub1/bin/python -m pip install --quiet --editable . "huggingface-hub<2" "pytest>=8" "trustme>=1.1"
	@touch $@

# Paddle 2 and NumPy 1 write the old file formats that the tests read; no newer version can.
$(PADDLE2):
	$(EXPORT_PYTHON) -m venv .venv-paddle2
	.venv-paddle2/bin/python -m pip install --quiet "paddlepaddle==2.6.2" "numpy<2" setuptools
	@touch $@

# The tools that lock and list versions; they install nothing of their own choice anywhere.
$(RELEASE):
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet "uv>=0.9" "cyclonedx-bom>=7" "build>=1.2"
	@touch $@

# What benchmarks/ compares with: environments and models, made once.
bench-peers: $(DEV) $(EXPORT)
	.venv/bin/python benchmarks/prepare.py
