# syntax=docker/dockerfile:1
# Serves a run or an export over HTTP: locked requirements, no compiler, a user without rights.
#   docker build -t sft-serve .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/EXPERIMENT/RUN_ID:/model:ro" sft-serve
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# The requirements first, so that a change of the code does not install them again.
COPY requirements-lock.txt ./
RUN python -m pip install --require-hashes -r requirements-lock.txt

# The package is run where it lies: to build it would need packages that the lock file does not have.
COPY LICENSE ./
COPY sft_lightning ./sft_lightning
ENV PYTHONPATH=/app

RUN useradd --create-home --uid 10001 serve
USER serve
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
# Within a container it listens on all addresses: publish the port on the host's loopback, or put a proxy before it.
ENTRYPOINT ["python", "-m", "sft_lightning", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
