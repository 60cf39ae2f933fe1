# The service in a container. Without a GPU:
#   docker build --tag linnet .
# With NVIDIA's (whose driver comes from the host, through the NVIDIA container toolkit; PyTorch brings the rest):
#   docker build --tag linnet:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu130 .
# How to run it is in docs/serving.md.
FROM python:3.11-slim-bookworm AS build
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/linnet \
    && /opt/linnet/bin/pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH" '.[serve]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/linnet /opt/linnet
# Jobs, clips and keys are in /data, downloaded models in /models: mount both.
ENV PATH=/opt/linnet/bin:$PATH HF_HOME=/models XDG_CACHE_HOME=/data/cache PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --no-create-home --home-dir /data linnet \
    && install --directory --owner linnet --mode 700 /data /models
USER 10001
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["linnet"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data"]
