# The service in one image: `secateur serve` runs the API and a worker; docker-compose.yml runs them apart.
#   docker build -t secateur .
#   docker run --init -p 127.0.0.1:8117:8117 -v secateur:/data secateur
# For NVIDIA GPUs: `--build-arg TORCH=cuda`, and `docker run --gpus all`; the CUDA libraries come with PyTorch's packages.
ARG BASE=python:3.11-slim-trixie

FROM ${BASE} AS build
# `cuda`: PyTorch as locked, 5 GB, which runs without a GPU, too. `cpu`: its CPU build, 1 GB, from the package index that
# TORCH_INDEX names (the lock has no hashes of it); as locked where none is named.
ARG TORCH=cpu
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH
# Dependencies before code: a change of code does not install them again. The lock is whole, so nothing is resolved.
COPY requirements.lock ./
RUN set -eu; \
    case "$TORCH${TORCH_INDEX:+ index}" in \
      "cpu index") own='^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)=='; \
           grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock > torch.lock; \
           pip install --no-deps --index-url "$TORCH_INDEX" --requirement torch.lock ;; \
      cpu|cuda*) own='^$' ;; \
      *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac; \
    awk -v own="$own" '/^[a-z0-9]/ { keep = $0 !~ own } keep' requirements.lock > rest.lock; \
    pip install --no-deps --require-hashes --requirement rest.lock
COPY pyproject.toml README.md LICENSE ./
COPY secateur secateur
COPY app app
COPY lut lut
COPY pruning pruning
COPY workers workers
COPY bench bench
# Everything it needs is there: no index is asked again, for the build tool neither.
RUN pip install --no-deps --no-index --no-build-isolation .

FROM ${BASE}
LABEL org.opencontainers.image.title="Secateur" \
      org.opencontainers.image.description="Prunes vision networks to a measured latency budget" \
      org.opencontainers.image.licenses="Apache-2.0"
# pg_dump and pg_restore, for `secateur backup` and `restore`: of the base's version, at least the server's. GCC's OpenMP
# and C++ libraries come with the packages themselves.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /data --create-home --shell /usr/sbin/nologin secateur
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
