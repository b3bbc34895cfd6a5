# One image for the service, its workers and the operator's commands:
#   docker build --tag imageprocessor .
#   docker build --tag imageprocessor --build-arg EXTRAS=all,heic . accepts HEIC, with a decoder under the GPLv2
#   docker build --tag imageprocessor --build-arg IMAGING=simd .    less secure: see below
#   docker build --tag imageprocessor-flower --target flower .

ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# pillow: the default. simd: Pillow-SIMD, which needs an x86-64 processor with AVX2. It is based on Pillow 12.1.1 and
# LACKS the security fixes to decoders in 12.2 and later. Use it only for images that you trust. It resizes six times as
# fast, which saves between nothing and a fifth of a job; docs/deployment.md has the figures.
ARG IMAGING=pillow
ARG EXTRAS=all
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN case "$IMAGING" in \
        pillow|simd) ;; \
        *) echo "IMAGING=$IMAGING: build with IMAGING=pillow (the default) or IMAGING=simd" >&2; exit 1 ;; \
    esac
RUN python -m venv /opt/imageprocessor
ENV PATH=/opt/imageprocessor/bin:$PATH
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir dist . && pip install "$(echo dist/*.whl)[$EXTRAS]"
# The package index has Pillow-SIMD only as source. Without --no-cache-dir, pip could use a cached wheel that another CC
# built. Without the config settings, a build without the headers for WebP or colour profiles would succeed.
# hadolint ignore=DL3008
RUN if [ "$IMAGING" = simd ]; then \
        apt-get update && \
        apt-get install --yes --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev liblcms2-dev libwebp-dev zlib1g-dev && \
        rm -rf /var/lib/apt/lists/* && \
        pip uninstall --yes pillow && \
        CC="cc -mavx2" pip install --no-cache-dir --no-binary pillow-simd \
            --config-settings=webp=enable --config-settings=lcms=enable pillow-simd==12.1.1.post0; \
    fi

FROM build AS build-flower
RUN --mount=type=cache,target=/root/.cache/pip pip install 'flower>=2,<3'

FROM ${BASE} AS runtime
ARG IMAGING=pillow
# Pillow's wheel contains its libraries; Pillow-SIMD is built against Debian's.
# hadolint ignore=DL3008
RUN if [ "$IMAGING" = simd ]; then \
        apt-get update && \
        apt-get install --yes --no-install-recommends libjpeg62-turbo liblcms2-2 libwebp7 libwebpdemux2 libwebpmux3 && \
        rm -rf /var/lib/apt/lists/*; \
    fi
RUN groupadd --gid 10001 imageprocessor && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin imageprocessor && \
    install --directory --owner=10001 --group=10001 --mode=0750 /data
# No bytecode is written at run time: the installation compiled it, and the root file system may be read-only.
# Large memory pages save a tenth of a job's work. This is for Celery workers; embedded workers set it themselves.
ENV PATH=/opt/imageprocessor/bin:$PATH \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data \
    LOG_FORMAT=json
LABEL org.opencontainers.image.title="imageprocessor" \
      org.opencontainers.image.description="Turns untrusted uploads into clean, upright, metadata-free web images" \
      org.opencontainers.image.licenses="MIT"
# Numeric, so that an orchestrator can see that the user is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data

FROM runtime AS flower
COPY --from=build-flower /opt/imageprocessor /opt/imageprocessor
EXPOSE 5555
ENTRYPOINT ["celery", "-A", "imageprocessor.queue.celery_app"]
CMD ["flower", "--port=5555"]

# `docker build` builds the last stage by default.
FROM runtime AS service
COPY --from=build /opt/imageprocessor /opt/imageprocessor
EXPOSE 8000
STOPSIGNAL SIGTERM
# Checks liveness, not readiness: a restart does not repair an unavailable database.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["imageprocessor"]
CMD ["serve", "--host", "0.0.0.0"]
