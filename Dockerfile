# A server of the models: docker build -t ghostzoo . && docker run --rm -p 127.0.0.1:8000:8000 --read-only ghostzoo
# Other models are mounted: docker run -v ./flowers:/models/flowers:ro ghostzoo --model /models/flowers

# By its digest, which names the image of every architecture; 'make base-image' writes today's.
ARG BASE_IMAGE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY requirements.lock requirements-build.lock ./
# Nothing is installed that is not in a lock file with its hash; no package runs code of its own to be built.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.lock \
    && python -m venv /opt/ghostzoo \
    && /opt/ghostzoo/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY ghostzoo ghostzoo
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel . \
    && /opt/ghostzoo/bin/pip install --no-compile --no-deps --no-index /wheel/*.whl \
    && /opt/ghostzoo/bin/pip check \
    && /opt/ghostzoo/bin/pip uninstall --yes pip

FROM ${BASE_IMAGE}
COPY --from=build /opt/ghostzoo /opt/ghostzoo
# No file is written: nothing is compiled at run time, and the engine is named, so that no measurement is kept.
ENV PATH=/opt/ghostzoo/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GHOSTZOO_ENGINE=onnxruntime
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# Within the container all addresses are listened on; who reaches them is decided by what is published.
ENTRYPOINT ["ghostzoo", "serve", "--host", "0.0.0.0"]
