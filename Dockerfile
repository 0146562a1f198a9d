# The exporter, the service and its admission webhook, with Debian's pyverbs for RDMA probes: docs/deployment.md.
#   docker build --tag REGISTRY/fabric-skeleton:0.1.0 . && docker push REGISTRY/fabric-skeleton:0.1.0
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY . /source
# All that is installed, the build's own tools too, has a hash of the lock; what only the tests need stays here.
RUN python3 -m venv --system-site-packages /opt/fabric-skeleton \
 && /opt/fabric-skeleton/bin/pip download --no-cache-dir --no-deps --only-binary :all: --require-hashes \
      --requirement /source/requirements.lock --dest /wheels \
 && PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels /opt/fabric-skeleton/bin/pip install "/source[otlp-grpc,gnmi,serve,kubernetes,dask]"

FROM debian:bookworm-slim
# pyverbs and libibverbs of one rdma-core, for the distribution's Python.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pyverbs ibverbs-providers \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fabric-skeleton /opt/fabric-skeleton
ENV PATH=/opt/fabric-skeleton/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
EXPOSE 9105 9106 9443
ENTRYPOINT ["fabric-exporter"]
CMD ["--help"]
