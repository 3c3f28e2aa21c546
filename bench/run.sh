#!/usr/bin/env bash
# Builds splitd, unless SPLITD_BIN says where it is, runs the benchmarks and writes
# results.md; arguments go to the program. Root gets the programs that splitd is
# compared with; for others the ways that need one that is not there are left out,
# which the output and the file say.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" != 0 ] || bench/packages.sh
[ -n "${SPLITD_BIN:-}" ] || make -s build
SPLITD_BIN=${SPLITD_BIN:-$PWD/bin} CGO_ENABLED=0 exec go run ./bench -out bench/results.md "$@"
