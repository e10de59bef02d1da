# The proxy as an image. How to run it, and what of this was tried and how: docs/docker.md.

FROM python:3.13-slim-trixie AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
# Without pip: the image runs the program and installs nothing.
RUN python -m venv --without-pip /opt/gemini-proxy
COPY pyproject.toml ./
# Wheels only, so no compiler is needed and no package's own code runs here. Bytecode that is never compared with its
# source is valid whatever happens to the times of files, and nobody can write it later.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python -m pip --python /opt/gemini-proxy install --no-compile --only-binary :all: -r requirements.txt \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/gemini-proxy/lib

FROM dependencies AS program
COPY README.md LICENSE ./
COPY src ./src
# Into a tree of its own, so that a change of the program changes one small layer of the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir dist . \
    && python -m pip --python /opt/gemini-proxy install --no-compile --no-deps --no-index --root /program dist/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /program -p / /program

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="Gemini Caching Proxy" \
      org.opencontainers.image.description="Forwards and streams every call to the Gemini API untouched, and records it." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie"
ENV PATH=/opt/gemini-proxy/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GEMINI_PROXY_HOST=0.0.0.0 \
    GEMINI_PROXY_PORT=8000 \
    GEMINI_PROXY_DATA_DIR=/data
# A new volume takes over the owner of what it covers.
RUN install -d -m 0700 -o 10001 -g 10001 /data
# Readable for everybody, whatever the umask of the checkout was.
COPY --chmod=0755 docker/health.py docker/initiate.py /opt/gemini-proxy/libexec/
COPY --from=dependencies /opt/gemini-proxy /opt/gemini-proxy
COPY --from=program /program /
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/gemini-proxy/libexec/health.py"]
ENTRYPOINT ["gemini-proxy"]
CMD ["serve"]
