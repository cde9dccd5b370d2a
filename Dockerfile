# The search as a job: docker build -t tuner . && docker run --rm -v "$PWD/runs:/runs" tuner search quick
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm
FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY tuner tuner
COPY model model
COPY studies studies
RUN python3 -m venv /opt/tuner && /opt/tuner/bin/pip install --no-cache-dir --quiet .

FROM ${BASE_IMAGE}
COPY --from=build /opt/tuner /opt/tuner
RUN useradd --create-home --uid 10001 tuner && mkdir /runs && chown tuner:tuner /runs
ENV PATH=/opt/tuner/bin:$PATH PYTHONUNBUFFERED=1 TUNER_STORAGE=sqlite:////runs/tuner.db
USER tuner
WORKDIR /
VOLUME /runs
STOPSIGNAL SIGTERM
ENTRYPOINT ["tuner"]
CMD ["--help"]
