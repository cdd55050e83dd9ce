# The record role with its own packages only.
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 lineside
WORKDIR /opt/lineside
RUN python -m pip install --no-cache-dir uv
COPY requirements.lock pyproject.toml README.md ./
# Versions and hashes come from the one lock; what this role does not use stays out.
COPY infra/requirements/record.lock ./role.lock
RUN uv pip install --system --no-cache --require-hashes --requirement role.lock
COPY . .
RUN uv pip install --system --no-cache --no-deps .
WORKDIR /home/lineside
USER lineside
ENV PYTHONUNBUFFERED=1 HF_HOME=/models
CMD ["lineside", "worker", "record"]
