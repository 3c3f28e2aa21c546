#!/bin/sh
# What `make install` does with what `make build` has built: programs, units and
# completions below DESTDIR and PREFIX. A configuration that is there stays.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
share=${DESTDIR:-}$prefix/share
lib=${DESTDIR:-}$prefix/lib
etc=${DESTDIR:-}/etc/splitd

install -D -t "${DESTDIR:-}$prefix/bin" bin/splitd bin/splitctl
install -D -m 644 -t "$lib/sysusers.d" packaging/sysusers.d/splitd.conf
install -D -m 644 -t "$lib/systemd/system" packaging/systemd/*.service
sed -i "s|/usr/local/bin/|$prefix/bin/|" "$lib"/systemd/system/splitd*.service
install -d "$etc/conf.d" "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
install -D -m 644 -t "$share/doc/splitd" README.md CHANGELOG.md configs/reference.yaml
install -D -m 644 -t "$share/doc/splitd/docs" docs/*.md
install -D -m 644 -t "$share/doc/splitd/examples" configs/examples/*.yaml
test -e "$etc/splitd.yaml" || install -m 644 packaging/splitd.yaml "$etc/splitd.yaml"
bin/splitctl completion bash >"$share/bash-completion/completions/splitctl"
bin/splitctl completion zsh >"$share/zsh/site-functions/_splitctl"
bin/splitctl completion fish >"$share/fish/vendor_completions.d/splitctl.fish"
