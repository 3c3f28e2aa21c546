#!/usr/bin/env bash
# What packaging/boot.sh runs inside, once in each boot, with the splits mx
# (kernel) and web (proxy) configured.
set -Eeuo pipefail
trap 'echo "boot-check.sh:$LINENO: did not hold: $BASH_COMMAND"; journalctl --no-pager -u splitd -u splitd-restore | tail -n 30' ERR

boot=$(cat /boot-check.name)
weight() { splitctl show mx -o json | tr -d ' \n' | grep -o '"weight_ppm":[0-9]*' | head -n 1 | cut -d: -f2; }
# The file for nftables.conf is empty while the daemon owns its tables.
included() { [ -s /run/splitd/include.nft ] && grep -q "gen=$1\"" /run/splitd/include.nft; }
excluded() { [ -f /run/splitd/include.nft ] && [ ! -s /run/splitd/include.nft ]; }
in_kernel() { nft list chain inet splitd split/mx | grep -q "gen=$1\""; }
main_pid() { systemctl show --property MainPID --value splitd; }
journal_has() { journalctl --no-pager --output cat SPLITD_LOG=flow | grep -qF "$1"; }
player() { cat /proc/"$(main_pid)"/task/*/children | tr -d ' '; }
plays_shadows() { grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$(player)/status" && grep -q '^CapEff:[[:space:]]*0000000000001000$' "/proc/$(player)/status"; }
plays_shadows_again() { [ "$(player)" != "$1" ] && plays_shadows; }
# refused COMMAND... holds if it fails.
refused() { if "$@"; then return 1; fi; }
# until_holds COMMAND... waits for it, ten seconds at most.
until_holds() {
    for _ in $(seq 100); do
        ! "$@" 2>/dev/null || return 0
        sleep 0.1
    done
    "$@"
}

if [ "$boot" = first ]; then
    systemctl is-active splitd
    systemd-sysusers
    systemctl restart splitd
    [ "$(stat -c %G /run/splitd/splitd.sock)" = splitd ]
    [ "$(stat -c %a /var/lib/splitd)" = 700 ]

    splitctl set mx 5% --reason "first boot"
    in_kernel 2

    useradd --groups splitd member
    useradd stranger
    runuser -u member -- splitctl set mx 6%
    runuser -u stranger -- splitctl status >/dev/null
    refused runuser -u stranger -- splitctl set mx 9%
    [ "$(weight)" = 60000 ]

    systemctl reload splitd
    echo 'splits: [{nonsense: 1}]' >/etc/splitd/conf.d/bad.yaml
    refused systemctl reload splitd
    rm /etc/splitd/conf.d/bad.yaml
    [ "$(weight)" = 60000 ]

    printf 'flow_log: {to: journal, sample: 100%%}\n' >/etc/splitd/conf.d/flow-log.yaml
    systemctl restart splitd
    (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null || true # nobody serves it: the line says so
    until_holds journal_has '"split":"web"'
    rm /etc/splitd/conf.d/flow-log.yaml
    systemctl restart splitd
    [ "$(weight)" = 60000 ]

    # The process that plays shadows takes no processor, has one right, and takes
    # nothing with it where memory runs out.
    splitctl shadow web 100%
    until_holds plays_shadows
    until_holds [ "$(cut -d' ' -f41 "/proc/$(player)/stat")" = 5 ] # SCHED_IDLE, proc_pid_stat(5)
    grep -q '^CapEff:[[:space:]]*0000000000001000$' "/proc/$(player)/status"
    [ "$(cat "/proc/$(player)/oom_score_adj")" = 1000 ]
    [ "$(systemctl show --property OOMPolicy --value splitd)" = continue ]
    played=$(player)
    kill -KILL "$played"
    until_holds plays_shadows_again "$played"
    splitctl shadow web default

    before=$(main_pid)
    kill -KILL "$before"
    in_kernel 3
    until_holds splitctl status >/dev/null
    [ "$(main_pid)" != "$before" ]
    [ "$(weight)" = 60000 ]

    systemctl reload nftables
    until_holds in_kernel 3
    until_holds excluded

    # Killed, and nobody starts it again: a reload of the firewall keeps our
    # tables, by the line of docs/operation.md.
    echo 'include "/run/splitd/*.nft"' >>/etc/nftables.conf
    mkdir -p /run/systemd/system/splitd.service.d
    printf '[Service]\nRestart=no\n' >/run/systemd/system/splitd.service.d/once.conf
    systemctl daemon-reload
    kill -KILL "$(main_pid)"
    until_holds systemctl is-failed --quiet splitd
    included 3
    nft -f /etc/nftables.conf
    in_kernel 3
    rm -r /run/systemd/system/splitd.service.d
    systemctl daemon-reload
    # The tables were made by nft: they are open until they are made anew.
    splitd cleanup
    [ ! -e /run/splitd/include.nft ]
    systemctl start splitd
    until_holds excluded
    [ "$(weight)" = 60000 ]

    systemctl stop splitd
    in_kernel 3
    included 3
    systemctl disable --quiet splitd
    systemctl mask --quiet splitd
else
    refused systemctl is-active splitd
    in_kernel 3
    restored=$(systemctl show --property ActiveEnterTimestampMonotonic --value splitd-restore)
    network=$(systemctl show --property ActiveEnterTimestampMonotonic --value network-pre.target)
    [ "$restored" -gt 0 ]
    [ "$network" -ge "$restored" ]
    included 3
    nft -f /etc/nftables.conf
    in_kernel 3
    systemctl unmask --quiet splitd
    systemctl start splitd
    [ "$(weight)" = 60000 ]
    in_kernel 3
    systemctl stop splitd
    splitd cleanup
    refused nft list table inet splitd 2>/dev/null
fi
[ -z "$(systemctl list-units --failed --plain --no-legend 'splitd*')" ]
echo "boot-check: $boot boot holds"
