#!/usr/bin/env bash
# Debian packages that the tests need beside Python: installed when we may, else named exactly.
set -euo pipefail
declare -A needs=([cc]=gcc [setpriv]=util-linux [promtool]=prometheus [prometheus-alertmanager]=prometheus-alertmanager)
missing=()
for program in "${!needs[@]}"; do
    command -v "$program" >/dev/null || missing+=("${needs[$program]}")
done
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A test machine wants the programs, not their services.
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
    exit 0
fi
echo "The tests need programs of these Debian packages: ${missing[*]}" >&2
echo "Install them as root (apt-get install ${missing[*]}), then run this again." >&2
exit 1
