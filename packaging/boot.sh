#!/usr/bin/env bash
# Boots a throw-away copy of this machine under systemd, twice, with splitd
# installed and its units enabled, and looks whether they keep their promises
# inside their sandbox: ready, reload, crash, a flush by nftables.service, and
# splits that are back before the network after a reboot.
# Needs root, systemd-container and overlayfs; writes to a tmpfs alone and has
# no network. Exit 77: this machine starts no container at all, nothing was judged.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside-mount-namespace ]; then
    exec timeout 300 unshare --mount "$PWD/packaging/boot.sh" inside-mount-namespace
fi

tmp=$(mktemp -d)
trap 'umount --quiet --lazy "$tmp/root" "$tmp" || true; rmdir "$tmp" || true' EXIT
mount -t tmpfs tmpfs "$tmp"
mkdir "$tmp/upper" "$tmp/work" "$tmp/root"
root=$tmp/root
container=(systemd-nspawn --quiet --directory="$root" --private-network --register=no --keep-unit --console=pipe --link-journal=no)
if ! mount -t overlay overlay -o "lowerdir=/,upperdir=$tmp/upper,workdir=$tmp/work" "$root" ||
    ! timeout 30 "${container[@]}" /bin/true </dev/null; then
    echo "packaging/boot.sh: no container can be started here: the units were not booted" >&2
    exit 77
fi

make --no-print-directory install DESTDIR="$root" >/dev/null
cp packaging/boot-check.sh "$root/boot-check.sh"
rm -rf "$root/var/lib/splitd" "$root/etc/splitd/conf.d/"*
cat >"$root/etc/splitd/conf.d/mx.yaml" <<'YAML'
splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12], weight: 0%}]
  - name: web
    mode: proxy
    service: {addresses: [127.0.0.1], ports: [80/tcp]}
    primary: {name: old, addresses: ["127.0.0.1:8080"]}
    candidates: [{name: new, addresses: ["127.0.0.1:8081"], weight: 0%}]
YAML
echo 'net.ipv4.ip_forward = 1' >"$root/etc/sysctl.d/splitd-boot.conf"
# A target of its own: what else this machine starts stays asleep.
cat >"$root/etc/systemd/system/boot-check.target" <<'UNIT'
[Unit]
Requires=basic.target
Wants=network-pre.target network-online.target nftables.service splitd-restore.service splitd.service boot-check.service
UNIT
cat >"$root/etc/systemd/system/boot-check.service" <<'UNIT'
[Unit]
After=splitd.service splitd-restore.service network-pre.target
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/bin/bash /boot-check.sh
StandardOutput=append:/boot-check.log
StandardError=inherit
TimeoutStartSec=60
UNIT

for boot in first second; do
    echo "$boot" >"$root/boot-check.name"
    : >"$root/boot-check.log"
    timeout 120 "${container[@]}" --boot -- --unit=boot-check.target </dev/null >"$tmp/console" 2>&1 || true
    if ! grep -qx "boot-check: $boot boot holds" "$root/boot-check.log"; then
        tail -n 10 "$tmp/console" >&2
        cat "$root/boot-check.log" >&2
        echo "packaging/boot.sh: the $boot boot does not hold" >&2
        exit 1
    fi
    tail -n 1 "$root/boot-check.log"
done
