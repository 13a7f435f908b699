# portspec in a container, in two targets:
#
#   docker build -t portspec .                       the connect engine: no capability (the target `connect`)
#   docker build --target raw -t portspec:raw .      SYN probes from a raw socket, for --cap-add NET_RAW
#
#   docker run -p 10190:10190 -v ./conf.yml:/etc/portspec/portspec.yml:ro -v portspec:/var/lib/portspec portspec
#
# Both run as an ordinary user, and write only to the volume (--read-only works). The base needs Python 3.11 or later
# with its module venv; the tests build this file on a base made of Debian's packages.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# An index other than pip's default, as a company may have.
ARG PIP_INDEX_URL
WORKDIR /src
# The dependencies change less often than portspec: a layer of their own.
COPY constraints.txt ./
RUN python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes -r constraints.txt \
    && python3 -m venv --without-pip /opt/portspec \
    && /build/bin/pip --python /opt/portspec/bin/python3 install --no-cache-dir --require-hashes -r constraints.txt \
    && /build/bin/pip --python /opt/portspec/bin/python3 uninstall --yes \
        editables hatchling pathspec pluggy tomlkit trove-classifiers \
    # a fifth of the size: the tests of numpy and what it needs to compile against it, the second of two
    # implementations of zstandard, which PyPy takes, the parsers of cffi, stubs of types, and languages to highlight
    && find /opt/portspec/lib/python3*/site-packages \( -path '*/numpy/*/tests' -o -path '*/numpy/testing' -o -path '*/numpy/f2py' \
        -o -path '*/numpy/polynomial' -o -path '*/numpy/typing' -o -path '*/numpy/_core/include' -o -path '*/numpy/random/lib' -o -name '_cffi.*.so' \
        -o -path '*/site-packages/cffi' -o -path '*/site-packages/pycparser' -o -name '*.pyi' \
        -o -path '*/pygments/lexers' \) -prune -exec rm -r {} +
COPY . .
RUN /build/bin/hatchling build -t wheel \
    && /build/bin/pip --python /opt/portspec/bin/python3 install --no-cache-dir --no-deps dist/*.whl

FROM ${BASE} AS connect
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="portspec" \
    org.opencontainers.image.description="Prometheus exporter that holds every host to the ports it should have open" \
    org.opencontainers.image.source="https://github.com/portspec/portspec" \
    org.opencontainers.image.documentation="https://github.com/portspec/portspec/blob/main/docs/deployment/containers.md" \
    org.opencontainers.image.licenses="BSD-2-Clause" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/portspec /opt/portspec
# The volume takes over the owner of the directory.
RUN mkdir -p /etc/portspec /var/lib/portspec && chown 65532:65532 /var/lib/portspec && chmod 700 /var/lib/portspec
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATE_DIRECTORY=/var/lib/portspec PATH=/opt/portspec/bin:$PATH
USER 65532:65532
VOLUME /var/lib/portspec
EXPOSE 10190
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s CMD ["/opt/portspec/bin/portspec", "healthcheck"]
ENTRYPOINT ["/opt/portspec/bin/portspec"]

FROM connect AS raw
USER 0
# CAP_NET_RAW (bit 13) as a file capability, permitted but not effective, on an interpreter that only portspec uses:
# Docker gives a user other than root no capability otherwise. Without --cap-add NET_RAW the program starts all the
# same, and connects. The attribute is a struct vfs_cap_data of revision 2 (capabilities(7), linux/capability.h).
RUN cp --remove-destination "$(readlink -f /opt/portspec/bin/python3)" /opt/portspec/bin/python3.raw \
    && python3 -c "import os, struct; os.setxattr('/opt/portspec/bin/python3.raw', 'security.capability', struct.pack('<5I', 0x02000000, 1 << 13, 0, 0, 0))" \
    && sed -i '1s|.*|#!/opt/portspec/bin/python3.raw|' /opt/portspec/bin/portspec
USER 65532:65532

# Without --target, the last one is built.
FROM connect
