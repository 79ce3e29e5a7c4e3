# Two images: `serve` answers predictions, `train` runs the jobs of a pipeline. docs/images.md tells
# where the bytes are and how to renew these pins, which stand nowhere else.
ARG IMAGE_PREFIX=docker.io/
# Of the image `serve`: cuda is ONNX Runtime's CUDA build, on the same base; CUDA comes with wheels.
ARG RUNTIME=cpu
# Of the image `serve`, from pyproject.toml: registry is needed; maps and batch can be added.
ARG EXTRAS=registry,stream
# Of the image `train`: cpu on the first base, cuda on the second.
ARG TORCH=cuda
ARG PYTHON_BASE=${IMAGE_PREFIX}library/python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84
# Not the `runtime` flavour: torch's wheels bring CUDA's libraries, the driver comes from the host.
ARG CUDA_BASE=${IMAGE_PREFIX}nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1


# What both stages of `serve` stand on: the base and git. Perl, which only git's scripts need, goes
# again, and so do the programs of git that serve, mail or push; what stays is what the package
# database says, so that a scanner sees it. Versions are Debian's of the day: its security updates
# replace each other, and the old one cannot be installed any more.
FROM ${PYTHON_BASE} AS system
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates git \
 && dpkg --purge --force-depends git-man liberror-perl perl \
        $(dpkg-query --show --showformat '${Package} ' 'libperl5*' 'perl-modules-*' 'libgdbm*') \
 && for program in daemon http-backend http-fetch http-push imap-send shell sh-i18n--envsubst; do \
        rm -f "/usr/lib/git-core/git-${program}" "/usr/bin/git-${program}"; \
    done \
 && rm -f /usr/lib/git-core/scalar /usr/bin/scalar \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /var/lib/dpkg/*-old /tmp/* /var/tmp/*


FROM ${PYTHON_BASE} AS tools
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && mkdir /strip \
 && cp --dereference /usr/bin/strip /usr/lib/*-linux-gnu/libbfd-*.so /usr/lib/*-linux-gnu/libsframe.so.* /strip


FROM system AS packages
WORKDIR /build
COPY --from=tools /strip /strip
COPY pyproject.toml constraints.txt src/delivery/image/slim.py src/delivery/image/sbom.py ./
ARG EXTRAS
ARG RUNTIME
# Wheels come with symbols for debuggers, 40 MiB of them; libraries that auditwheel has patched do not.
RUN --mount=type=cache,target=/var/cache/pip \
    export PIP_CACHE_DIR=/var/cache/pip \
 && python3 -m venv /app/venv \
 && python3 slim.py requirements pyproject.toml "${EXTRAS}" constraints.txt "${RUNTIME}" > requirements.txt \
 && /app/venv/bin/pip install --no-compile --requirement requirements.txt --constraint constraints.txt \
 && /app/venv/bin/python slim.py packages \
 && LD_LIBRARY_PATH=/strip \
    find /app/venv -name '*.so' -not -path '*.libs/*' -exec /strip/strip --strip-debug {} +


FROM packages AS application
WORKDIR /app
COPY service service
COPY src/contracts contracts
ENV PYTHONPYCACHEPREFIX=/app/pycache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0
# Rights are set here, so that they depend on nobody's umask.
RUN venv/bin/python /build/slim.py compile \
 && venv/bin/python /build/sbom.py > sbom.json \
 && chmod -R u=rwX,go=rX contracts pycache sbom.json service


# Apart from the code: a release of another model compiles nothing again.
FROM system AS bundle
COPY model /app/model
RUN chmod -R u=rwX,go=rX /app/model


FROM system AS serve
# No way to install anything in here, not even by the base's own tools.
RUN --mount=type=bind,from=packages,source=/build/slim.py,target=/run/slim.py \
    PYTHONDONTWRITEBYTECODE=1 python3 /run/slim.py installers \
 && mkdir --mode=0770 /state
# By how often they change, so that a release moves few bytes: constraints, code, model.
COPY --from=application /app/venv /app/venv
COPY --from=application /app/pycache /app/pycache
COPY --from=application /app/sbom.json /app/sbom.json
COPY --from=application /app/contracts /app/contracts
COPY --from=application /app/service /app/service
COPY --from=bundle /app/model /app/model
# Every release changes these: `python -m delivery.image build` passes them. The file is no ornament:
# buildah takes a label from its cache that had other arguments, and a step that runs it does not.
ARG VERSION=local
ARG REVISION=unknown
ARG BUNDLE_SHA256=unknown
ARG CREATED=1980-01-01T00:00:00Z
ARG EXTRAS
ARG RUNTIME
RUN echo "${VERSION} ${REVISION} ${BUNDLE_SHA256}" > /app/release
LABEL org.opencontainers.image.title="conveyor" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      io.conveyor.bundle.sha256="${BUNDLE_SHA256}" \
      io.conveyor.extras="${EXTRAS}" \
      io.conveyor.runtime="${RUNTIME}"
# What the service writes goes to /tmp: give it a tmpfs, the rest can be read-only. Mount a volume at
# /state, which group 0 may write, and set SERVICE_STATE to keep what serves. The host is set so that
# the service refuses to start without keys (docs/service.md).
ENV PATH=/app/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONPYCACHEPREFIX=/app/pycache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SERVICE_HOST=0.0.0.0 \
    SERVICE_BUNDLE=/app/model \
    SERVICE_STATE=/tmp/state \
    SERVICE_TAG=${VERSION}
WORKDIR /app
# Any user will do, also one without a line in /etc/passwd: every file can be read by all.
USER 10001:0
EXPOSE 8000
STOPSIGNAL SIGTERM
# No HEALTHCHECK: Kubernetes asks /healthz and /readyz itself and OCI images cannot carry one;
# compose.yaml has its own.
# checkov:skip=CKV_DOCKER_2:probes belong to what runs the image
ENTRYPOINT ["python", "-m", "service"]


# What jobs of merge requests need, so that they install nothing. CML posts the reports.
FROM ${PYTHON_BASE} AS train-on-cpu
FROM ${CUDA_BASE} AS train-on-cuda
# hadolint ignore=DL3006
FROM train-on-${TORCH} AS train
ARG CML=locked
COPY ci/cml /opt/cml
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates curl git make nodejs npm openssh-client python3 python3-venv rsync \
 && if [ -n "${CML}" ]; then \
        npm ci --prefix /opt/cml && npm cache clean --force \
     && ln -s /opt/cml/node_modules/.bin/cml /usr/local/bin/cml; \
    fi \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
ARG KUBECTL_MIRROR=
WORKDIR /conveyor
COPY ci/install ci/install
RUN ci/install kubectl
# `make setup` finds here what it would install, and installs what a newer lock adds. The code is
# taken from the job's checkout, never from the image. No GPU is seen while building.
ENV VENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH
COPY Makefile pyproject.toml poetry.lock ./
COPY ci/environment.py ci/environment.py
ARG TORCH
RUN --mount=type=cache,target=/var/cache/pip \
    export PIP_CACHE_DIR=/var/cache/pip UV_CACHE_DIR=/var/cache/pip/uv UV_LINK_MODE=copy \
 && make setup EXTRAS=registry,train,delivery,dev TORCH="${TORCH}"
ENV PYTHONPATH=src:.
WORKDIR /work
ARG REVISION=unknown
RUN echo "${REVISION}" > /opt/venv/release
LABEL org.opencontainers.image.title="conveyor-train" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
