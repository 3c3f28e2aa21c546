#!/usr/bin/env bash
# Installs what splitd is compared with, on Debian, as root.
set -euo pipefail
exec "$(dirname "$0")/../e2e/install.sh" haproxy:haproxy nginx-light:nginx libnginx-mod-stream wrk iperf3 iptables nftables
