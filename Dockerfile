# The service in one image: `secateur serve` runs the API and a worker; docker-compose.yml runs them apart.
#   docker build -t secateur .
#   docker run --init -p 127.0.0.1:8117:8117 -v secateur:/data secateur
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# `all` installs requirements.lock; another extra needs its own lock, requirements-<extra>.lock.
ARG EXTRA=all
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH
# Dependencies before code: a change of code does not install them again.
COPY requirements*.lock ./
RUN lock=requirements.lock; \
    if [ "$EXTRA" != all ]; then lock="requirements-$EXTRA.lock"; fi; \
    if [ ! -f "$lock" ]; then echo "there is no $lock for EXTRA=$EXTRA; make it with pip-compile" >&2; exit 1; fi; \
    pip install --require-hashes --requirement "$lock"
COPY pyproject.toml README.md LICENSE ./
COPY secateur secateur
COPY app app
COPY lut lut
COPY pruning pruning
COPY workers workers
COPY bench bench
# Everything it needs is there, checked by hash: no index is asked again, for the build tool neither.
RUN pip install --no-deps --no-index --no-build-isolation . && python -m compileall -q /opt/secateur/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="Secateur" \
      org.opencontainers.image.description="Prunes vision networks to a measured latency budget" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --user-group --home-dir /data --create-home --shell /usr/sbin/nologin secateur
COPY --from=build /opt/secateur /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SECATEUR_HOME=/data \
    SECATEUR_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8117
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8117/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["secateur", "serve"]
