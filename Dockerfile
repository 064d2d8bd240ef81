# syntax=docker/dockerfile:1
# A server of the models: docker build -t ghostzoo . && docker run --rm -p 127.0.0.1:8000:8000 --read-only ghostzoo
# Other models are mounted: docker run -v ./flowers:/models/flowers:ro ghostzoo --model /models/flowers

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ghostzoo ghostzoo
RUN python -m venv /opt/ghostzoo \
    && /opt/ghostzoo/bin/pip install --no-cache-dir --no-compile ".[serve]" \
    && /opt/ghostzoo/bin/pip uninstall --yes pip

FROM python:3.13-slim
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
