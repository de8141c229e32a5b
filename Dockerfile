# The worker alone: `docker build -t session-worker .`
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/session-worker
COPY requirements.lock ./
RUN /opt/session-worker/bin/pip install --requirement requirements.lock
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
USER 10001
# A SQLite ledger, which is named relative to this folder, outlives the container here.
WORKDIR /var/lib/session-worker
VOLUME /var/lib/session-worker
# No HEALTHCHECK: a worker that cannot work says so in its log and goes on trying, or ends.
ENTRYPOINT ["session-worker"]
CMD ["run"]
