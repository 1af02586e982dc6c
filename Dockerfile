# Both stages stand on this image; to pin it by its digest, or to take a mirror's:
#   docker build --build-arg BASE=python@sha256:… .
ARG BASE=python:3.13-slim

# Stage 1 installs what the lock names, hash by hash; atomicwrites has no wheel and is built here.
FROM ${BASE} AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements/uv.txt requirements/bot.txt requirements/dev.txt requirements/
RUN python -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && python -m venv --without-pip /opt/assistant \
    && /opt/uv/bin/uv pip install --no-cache --python /opt/assistant/bin/python \
        --require-hashes --build-constraints requirements/dev.txt -r requirements/bot.txt
COPY pyproject.toml README.md LICENSE ./
COPY bot bot
RUN /opt/uv/bin/uv build --no-cache --wheel --require-hashes \
        --build-constraints requirements/dev.txt \
    && /opt/uv/bin/uv pip install --no-cache --python /opt/assistant/bin/python --no-deps dist/*.whl

# Stage 2 holds the bot alone: no compiler, no package client, no root. Everything it writes is in
# the one volume, so the root file system may be mounted read-only:
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -v ./config.yaml:/etc/assistant-tchap/config.yaml:ro -v assistant:/var/lib/assistant-tchap …
FROM ${BASE}
RUN groupadd --system --gid 10001 assistant \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/assistant-tchap assistant \
    && install -d -m 0700 -o assistant -g assistant /var/lib/assistant-tchap
COPY --from=build /opt/assistant /opt/assistant
ENV PATH=/opt/assistant/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number: Kubernetes' runAsNonRoot takes no name's word for it.
USER 10001:10001
VOLUME /var/lib/assistant-tchap
STOPSIGNAL SIGTERM
# In a container of its own no port is taken. Kubernetes asks /livez by itself (docs/operations.md).
ENV ASSISTANT_HEALTH__PORT=9464
# Where it is turned off, nobody is asked. No urllib: it would ask an HTTP_PROXY of the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-Ic", "\
import http.client, os, sys; \
port = os.environ['ASSISTANT_HEALTH__PORT']; \
port.isdigit() or sys.exit(0); \
host = os.environ.get('ASSISTANT_HEALTH__HOST') or '127.0.0.1'; \
asked = http.client.HTTPConnection(host, int(port), timeout=4); \
asked.request('GET', '/livez'); \
sys.exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["assistant-tchap"]
CMD ["run", "--config", "/etc/assistant-tchap/config.yaml"]
