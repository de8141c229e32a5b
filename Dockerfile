# The worker alone: `docker build -t session-worker .`
FROM python:3.11-slim-bookworm AS dependencies

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv --without-pip /opt/session-worker && python -m venv /opt/pip
COPY requirements.lock ./
# An image that adds libraries takes the last file as constraints (docs/getting-started.md).
RUN /opt/pip/bin/pip --python /opt/session-worker/bin/python install --require-hashes --requirement requirements.lock \
    && /opt/pip/bin/pip --python /opt/session-worker/bin/python freeze >/opt/session-worker/constraints.txt


FROM dependencies AS code

COPY requirements-build.lock ./
RUN /opt/pip/bin/pip install --require-hashes --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY client client
COPY worker worker
RUN /opt/pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel ./contracts ./client . \
    && /opt/pip/bin/pip --python /opt/session-worker/bin/python install --no-deps --prefix /code /wheel/*.whl


FROM python:3.11-slim-bookworm

# Numbers that a bind mount or a cluster's security context can name.
RUN groupadd --gid 10001 session-worker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/session-worker session-worker \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/session-worker
COPY --from=dependencies /opt/session-worker /opt/session-worker
COPY --from=code /code /opt/session-worker
ENV PATH=/opt/session-worker/bin:$PATH PYTHONUNBUFFERED=1
# For the check below; probes from outside need SESSION_WORKER_OPS_HOST=0.0.0.0 besides.
ENV SESSION_WORKER_OPS_PORT=9464
USER 10001:10001
# A SQLite ledger that nobody names is made in this folder: a volume there lets it outlive the container.
ENV STATE_DIRECTORY=/var/lib/session-worker
WORKDIR /var/lib/session-worker
# Alive, not ready: who replaces unhealthy containers must not do so because the broker is away.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s CMD ["python", "-m", "session_worker.cli.healthcheck"]
ENTRYPOINT ["session-worker"]
CMD ["run"]
