#!/usr/bin/env bash
# Installs what the tests of this folder need on Debian, as root. Where another
# mail server is installed it stops and says so.
set -euo pipefail

if [ "$(id -u)" = 0 ] && ! dpkg-query -W -f '${db:Status-Status}' postfix 2>/dev/null | grep -qx installed; then
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
fi
exec "$(dirname "$0")/../install.sh" postfix:postfix swaks libnet-ssleay-perl openssl nginx-light:nginx libnginx-mod-mail curl conntrack conntrackd:conntrackd \
    keepalived:keepalived nftables iproute2 iputils-ping systemd ifupdown:networking
