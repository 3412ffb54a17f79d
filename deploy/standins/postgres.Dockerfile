# Debian's Postgres with the part of the official image's interface that docker-compose.yml uses.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
COPY postgres.sh /start
VOLUME /var/lib/postgresql/data
CMD ["/bin/sh", "/start"]
