#!/usr/bin/env bash
# Install Debian's headless Chromium for the test of `worldmodel play`, where we may. Never stops the caller: without a
# browser that one test is skipped and says so.
set -uo pipefail

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

command -v chromedriver >/dev/null && exit 0
if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
    echo "installing chromium and chromium-driver for the test of the page"
    timeout 120 bash -c "$(declare -f as_root); as_root apt-get update -qq" || true
    timeout 300 bash -c "$(declare -f as_root); as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium chromium-driver" >/dev/null || true
fi
command -v chromedriver >/dev/null || echo "no chromedriver here: the test of the page in a browser will be skipped" >&2
exit 0
