#!/usr/bin/env bash
# Installs what the tests of this folder need on Debian, as root, without a
# question, without starting or enabling a service, and without removing a
# package: where another mail server is installed it stops and says so.
set -euo pipefail

packages=(postfix swaks nginx-light curl conntrack conntrackd keepalived nftables iproute2 iputils-ping systemd ifupdown)

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
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
[ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mmin -720 -print -quit)" ] || apt-get update -qq
# Without --no-remove postfix would silently replace another mail server.
apt-get install -qq -y --no-install-recommends --no-remove "${missing[@]}" </dev/null >/dev/null

# Not at the next boot either, when it was us who brought them.
for pair in postfix:postfix nginx-light:nginx keepalived:keepalived conntrackd:conntrackd ifupdown:networking; do
    package=${pair%:*} unit=${pair#*:}
    if [[ " ${missing[*]} " == *" $package "* ]] && command -v systemctl >/dev/null; then
        systemctl --quiet disable "$unit" 2>/dev/null || true
    fi
done
