#!/usr/bin/env bash
# Installs what splitd is compared with, on Debian, as root, without a question,
# and without starting or enabling a service.
set -euo pipefail

packages=(haproxy iptables nftables)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || { echo "packages.sh: installing ${missing[*]} needs root" >&2; exit 1; }

# 101 is "forbidden by policy" to invoke-rc.d (policy-rc.d(8)); somebody's own
# policy is left alone, and so stays in force.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
[ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mmin -720 -print -quit)" ] || apt-get update -qq
apt-get install -qq -y --no-install-recommends --no-remove "${missing[@]}" </dev/null >/dev/null

# Not at the next boot either, when it was us who brought it.
if [[ " ${missing[*]} " == *" haproxy "* ]] && command -v systemctl >/dev/null; then
    systemctl --quiet disable haproxy 2>/dev/null || true
fi
