#!/usr/bin/env bash
# Installs packages of Debian, as root, without a question, without starting or
# enabling a service, and without removing a package:
#   e2e/install.sh PACKAGE[:UNIT]...
# UNIT is the service that a package would enable for the next boot. What is
# installed already is left as it is.
set -euo pipefail

missing=()
for wanted in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "${wanted%%:*}" 2>/dev/null | grep -qx installed || missing+=("$wanted")
done
[ ${#missing[@]} -gt 0 ] || exit 0
packages=("${missing[@]%%:*}")
[ "$(id -u)" = 0 ] || { echo "install.sh: installing ${packages[*]} needs root" >&2; exit 1; }

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
# Without --no-remove postfix would silently replace another mail server.
apt-get install -qq -y --no-install-recommends --no-remove "${packages[@]}" </dev/null >/dev/null

# Not at the next boot either, when it was us who brought them.
for wanted in "${missing[@]}"; do
    if [[ "$wanted" == *:* ]] && command -v systemctl >/dev/null; then
        systemctl --quiet disable "${wanted#*:}" 2>/dev/null || true
    fi
done
