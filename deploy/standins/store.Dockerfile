# moto's S3 server, which keeps everything in memory and asks nobody for a key.
ARG BASE
FROM ${BASE}
RUN python3 -m venv /opt/moto && /opt/moto/bin/pip install --no-cache-dir "moto[server]"
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY store.py /store.py
ENTRYPOINT ["/opt/moto/bin/python", "/store.py"]
