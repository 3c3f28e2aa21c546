#!/usr/bin/env bash
# Installs into a temporary directory and judges what lies there: the files are
# all in place, a second install keeps an edited configuration, the shipped one
# loads, and systemd has nothing to say about the units. Any user may run it;
# it needs make, a build or go, and systemd-analyze.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "packaging/verify.sh: $*" >&2; exit 1; }

make --no-print-directory install DESTDIR="$tmp" PREFIX=/usr >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "make install"; }

for file in usr/bin/splitd usr/bin/splitctl \
    usr/lib/systemd/system/splitd.service usr/lib/systemd/system/splitd-restore.service \
    usr/lib/sysusers.d/splitd.conf etc/splitd/splitd.yaml \
    usr/share/bash-completion/completions/splitctl usr/share/zsh/site-functions/_splitctl \
    usr/share/fish/vendor_completions.d/splitctl.fish usr/share/doc/splitd/README.md \
    usr/share/doc/splitd/reference.yaml usr/share/doc/splitd/docs/operation.md usr/share/doc/splitd/examples/old-mx.yaml; do
    [ -s "$tmp/$file" ] || fail "make install wrote no /$file"
done
[ -z "$(ls -A "$tmp/etc/splitd/conf.d")" ] || fail "/etc/splitd/conf.d is not empty"
bash -n "$tmp/usr/share/bash-completion/completions/splitctl" || fail "the bash completion is no bash"

if version=$(git describe --tags --always --dirty 2>/dev/null); then
    "$tmp/usr/bin/splitd" version | grep -qF "$version" || fail "splitd version does not say $version"
fi
"$tmp/usr/bin/splitd" check "$tmp/etc/splitd/splitd.yaml" || fail "the shipped splitd.yaml does not load"
"$tmp/usr/bin/splitd" check "$tmp"/usr/share/doc/splitd/reference.yaml "$tmp"/usr/share/doc/splitd/examples/*.yaml 2>"$tmp/log" || { cat "$tmp/log" >&2; fail "an installed example does not load"; }
echo '# edited' >>"$tmp/etc/splitd/splitd.yaml"
make --no-print-directory install DESTDIR="$tmp" PREFIX=/usr >>"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "second make install"; }
grep -q '^# edited$' "$tmp/etc/splitd/splitd.yaml" || fail "a second make install overwrote splitd.yaml"

# The programs must exist where the units name them: point the units there.
units=("$tmp"/usr/lib/systemd/system/splitd*.service)
grep -H '/usr/local' "${units[@]}" && fail "a unit does not follow PREFIX"
sed -i "s|=/usr/bin/split|=$tmp/usr/bin/split|" "${units[@]}"
said=$(systemd-analyze verify --man=no "${units[@]}" 2>&1) || fail "systemd-analyze verify: exit $?: $said"
[ -z "$said" ] || fail "systemd-analyze verify says: $said"
systemd-analyze security --offline=yes --threshold=25 --no-pager "${units[@]}" >"$tmp/log" || {
    grep -v '✓' "$tmp/log" >&2
    fail "the units are exposed more than they were (over 2.5 of 10)"
}
echo "packaging: installed, and systemd has nothing to say"
