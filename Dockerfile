# The worker alone: `docker build -t session-worker .`
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/session-worker
# It stays in the image: one that adds libraries takes it as constraints (docs/getting-started.md).
COPY requirements.lock /opt/session-worker/
RUN /opt/session-worker/bin/pip install --requirement /opt/session-worker/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY client client
COPY worker worker
RUN /opt/session-worker/bin/pip install --no-deps . \
    && /opt/session-worker/bin/pip uninstall --yes pip setuptools


FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --home-dir /var/lib/session-worker --create-home session-worker
COPY --from=build /opt/session-worker /opt/session-worker
ENV PATH=/opt/session-worker/bin:$PATH PYTHONUNBUFFERED=1
# For the check below; probes from outside need SESSION_WORKER_OPS_HOST=0.0.0.0 besides.
ENV SESSION_WORKER_OPS_PORT=9464
USER 10001
# A SQLite ledger that nobody names is made in this folder, where it outlives the container.
ENV STATE_DIRECTORY=/var/lib/session-worker
WORKDIR /var/lib/session-worker
VOLUME /var/lib/session-worker
# Alive, not ready: who replaces unhealthy containers must not do so because the broker is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"SESSION_WORKER_OPS_PORT\"]}/livez', timeout=4)"]
ENTRYPOINT ["session-worker"]
CMD ["run"]
