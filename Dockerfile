# The service, and every other command, in one image: `docker run IMAGE run …` works as well.
#
# It needs no writable place but /state, runs as nobody in particular, and ends in order at SIGTERM.
FROM python:3.13.14-slim-bookworm@sha256:9d7f287598e1a5a978c015ee176d8216435aaf335ed69ac3c38dd1bbb10e8d64 AS build

WORKDIR /build
COPY deploy/build.lock deploy/requirements.lock ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement build.lock \
    && python -m venv --without-pip /opt/ingest \
    && uv pip sync --python /opt/ingest/bin/python --require-hashes --compile-bytecode requirements.lock
# What changes often comes last, so that a new version of the program does not install its libraries again.
COPY pyproject.toml README.md LICENSE ./
COPY ingest_service ingest_service
RUN python -m hatchling build --target wheel --directory /build/dist \
    && uv pip install --python /opt/ingest/bin/python --no-deps --compile-bytecode /build/dist/*.whl


FROM python:3.13.14-slim-bookworm@sha256:9d7f287598e1a5a978c015ee176d8216435aaf335ed69ac3c38dd1bbb10e8d64

COPY --from=build /opt/ingest /opt/ingest
RUN install --directory --owner=10001 --group=10001 --mode=0700 /state
# HOME is in the volume for what libraries keep (models), and so is the folder that it starts in: where there is no
# /tmp to write to, temporary files are made there.
ENV PATH=/opt/ingest/bin:$PATH \
    HOME=/state \
    INGEST_STATE_DIR=/state \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /state
VOLUME ["/state"]
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", "import http.client as c; h = c.HTTPConnection('127.0.0.1', 8080, timeout=2); h.request('GET', '/healthz'); raise SystemExit(h.getresponse().status != 200)"]
ENTRYPOINT ["ingest-service"]
CMD ["serve", "--host", "0.0.0.0"]
