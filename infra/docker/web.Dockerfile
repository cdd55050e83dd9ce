# The web role with its own packages only.
FROM node:20-slim AS pages
WORKDIR /src/console/web
COPY console/web/package.json console/web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY schemas/json /src/schemas/json
COPY console/web ./
RUN npm run build

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 lineside
WORKDIR /opt/lineside
RUN python -m pip install --no-cache-dir uv
COPY requirements.lock pyproject.toml README.md ./
# Versions and hashes come from the one lock; what this role does not use stays out.
COPY infra/requirements/web.lock ./role.lock
RUN uv pip install --system --no-cache --require-hashes --requirement role.lock
COPY . .
COPY --from=pages /src/console/web/dist console/web/dist
RUN uv pip install --system --no-cache --no-deps .
WORKDIR /home/lineside
USER lineside
ENV PYTHONUNBUFFERED=1 HF_HOME=/models
CMD ["lineside", "worker", "web"]
