#!/usr/bin/env bash
# Install the system libraries that Qt needs and Xvfb (a display in memory), where they are missing.
# Debian and Ubuntu only, and only as root; elsewhere it says what is missing and what to run.
set -euo pipefail

packages=(
    xvfb xauth libgl1 libegl1 libopengl0 libdbus-1-3 libfontconfig1 libglib2.0-0 libx11-xcb1
    libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0
)

[ "$(uname -s)" = Linux ] || exit 0

if ! command -v dpkg-query >/dev/null; then
    command -v Xvfb >/dev/null && exit 0
    echo "Xvfb is missing, and this is neither Debian nor Ubuntu: install your system's packages of" >&2
    echo "Xvfb and of the libraries Qt needs under X11 (on Debian: ${packages[*]})." >&2
    exit 1
fi

# Newer releases have renamed some packages (libglib2.0-0t64), which provide the old name.
present="$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' \
    | sed -n 's/^installed //p' | sed 's/([^)]*)//g' | tr -s ', ' '\n\n' | sort -u)"
missing=()
for package in "${packages[@]}"; do
    grep -qxF "$package" <<<"$present" || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "Missing system libraries: ${missing[*]}" >&2
    echo "Run this once, then try again:  sudo apt-get update && sudo apt-get install ${missing[*]}" >&2
    exit 1
fi

echo "== installing system libraries: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install: ${missing[*]} (the lines above say why)." >&2
    exit 1
fi
