# The study in a container, on a processor: docker build -t lesion-utils . && docker run --rm -it lesion-utils
# Tried so far: these steps, as this user, by buildah and by hand on a plain Debian with Python 3.13; not yet with Docker.
#
#   what it makes stays:   docker run --rm -it -v lesion-reports:/home/study/lesion-utils/reports lesion-utils
#   JupyterLab:            docker run --rm -it -p 127.0.0.1:8888:8888 lesion-utils make lab
#   another study:         docker run --rm -it -v /path/to/the/images:/images:ro -e DATA_DIR=/images lesion-utils make all STUDY=isic2016
#   a graphics processor:  docker build --build-arg TORCH=gpu ..., and docker run --gpus all ...
FROM python:3.13-slim-bookworm

# Versions that Debian has replaced cannot be had any more, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home study \
    && install --directory --owner=study --group=study /home/study/lesion-utils

# devcontainer.json names the user too.
# hadolint ignore=DL3066
USER study
WORKDIR /home/study/lesion-utils
# Beside the project, so that mounting a working tree over it leaves the environment in place.
ENV VENV=/home/study/venv
ARG TORCH=cpu
ENV TORCH=$TORCH
# JupyterLab has to be reached from outside the container; whoever publishes the port decides by whom.
RUN mkdir -p /home/study/.jupyter reports \
    && echo 'c.ServerApp.ip = "0.0.0.0"' > /home/study/.jupyter/jupyter_server_config.py

# The environment before the code: an edit of the code builds it no second time.
COPY --chown=study Makefile pyproject.toml README.md LICENSE requirements*.lock ./
RUN mkdir lesion_utils && touch lesion_utils/__init__.py && make env
COPY --chown=study . .

CMD ["make", "all"]
