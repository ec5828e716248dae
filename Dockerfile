# scaledq on the CPU; for a GPU, build with --build-arg TORCH=https://download.pytorch.org/whl/cu130
FROM python:3.11-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt \
        --index-url "$TORCH" --extra-index-url https://pypi.org/simple torch \
    && pip install --no-cache-dir --constraint constraints.txt ".[atari,parquet,http,onnx,serve]" \
    && useradd --create-home scaledq
USER scaledq
WORKDIR /home/scaledq
ENTRYPOINT ["scaledq"]
CMD ["--help"]
