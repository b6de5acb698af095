#!/bin/sh
# A Chromium for `make test-browser`: the one that is there, else playwright's own, else the system's package.
set -e
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
"$1" -m playwright install --with-deps chromium && exit 0
apt-get update -q && apt-get install -y -q chromium
