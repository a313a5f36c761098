# codepose on the CPU: predicts and serves; docs/deployment.md says how to use it and how to train in it.
FROM python:3.12-slim-bookworm AS build
ARG EXTRAS=serve,video
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY src src
# the versions of requirements.lock; PyTorch's builds without CUDA, a tenth of the size
RUN python -m venv /opt/codepose \
    && uv pip install --no-cache --python /opt/codepose/bin/python --torch-backend cpu \
        --constraint requirements.lock ".[${EXTRAS}]"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 codepose
COPY --from=build /opt/codepose /opt/codepose
ENV PATH=/opt/codepose/bin:$PATH
USER 1000
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["codepose"]
CMD ["--help"]
