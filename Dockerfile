# One image for the search, its workers and the dashboard:
#   mkdir -p runs && docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" IMAGE search plateau
# Build arguments: BASE_IMAGE, TORCH (cuda, or cpu for an image of a quarter of the size), and pip's own PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS
# (where CPU builds of torch are found).
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH=cuda
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python3 -m venv /opt/tuner
COPY deploy/constraints.txt deploy/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN case "${TORCH}" in cuda) suffix="" ;; cpu) suffix="+cpu" ;; *) echo "TORCH=${TORCH} is not known; allowed: cuda, cpu" >&2; exit 1 ;; esac; \
    version="$(grep '^torch==' deploy/constraints.txt)"; \
    /opt/tuner/bin/pip install --constraint deploy/constraints.txt "${version}${suffix}"
COPY pyproject.toml README.md ./
COPY model model
COPY studies studies
COPY tuner tuner
RUN /opt/tuner/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/tuner/bin/pip install --constraint deploy/constraints.txt "$(echo /wheels/tuner-*.whl)[metrics,postgres,s3]"

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="tuner" \
      org.opencontainers.image.description="Hyperparameter search for the symmetric model: finds what works, stops what does not, and says why"
COPY --from=build /opt/tuner /opt/tuner
RUN groupadd --gid 1000 tuner && useradd --uid 1000 --gid 1000 --home-dir /runs --no-create-home tuner && install -d -o tuner -g tuner /runs
# any user id will do: home and caches lie on the volume, what is only for now in memory
ENV PATH=/opt/tuner/bin:$PATH \
    HOME=/runs \
    XDG_CACHE_HOME=/runs/cache \
    TRITON_CACHE_DIR=/runs/cache/triton \
    TMPDIR=/dev/shm \
    MPLCONFIGDIR=/dev/shm/matplotlib \
    TUNER_PULSE=/dev/shm/tuner-pulse \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /
VOLUME ["/runs"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=300s --retries=3 CMD ["tuner", "health"]
ENTRYPOINT ["tuner"]
CMD ["--help"]
