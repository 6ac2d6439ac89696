# `vpt serve` on a CPU; docs/serving.md has the commands that build and run it.
FROM python:3.13-slim AS build

# What artifacts may need: "serve" alone for classifiers and segmenters on timm's backbones.
ARG EXTRAS=serve,clip,detection
RUN python -m venv /opt/vpt
ENV PATH=/opt/vpt/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# First, and by itself, so that a change of the source does not install it again.
# hadolint ignore=DL3013
RUN pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY vpt ./vpt
# hadolint ignore=DL3013
RUN pip install ".[${EXTRAS}]"

FROM python:3.13-slim

RUN useradd --uid 10001 --create-home vpt \
    && mkdir /artifacts \
    && chown vpt:vpt /artifacts
COPY --from=build /opt/vpt /opt/vpt
ENV PATH=/opt/vpt/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/vpt
VOLUME /artifacts
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Further options are appended: docker run IMAGE --backbone vpt_nano
ENTRYPOINT ["vpt", "serve", "/artifacts", "--host", "0.0.0.0", "--port", "8000"]
