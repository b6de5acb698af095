#!/bin/sh
# A Chromium for `make test-browser`: the one that is there, else the system's package, else playwright's own.
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -q && apt-get install -y -q chromium && exit 0
fi
exec "$1" -m playwright install --with-deps chromium
