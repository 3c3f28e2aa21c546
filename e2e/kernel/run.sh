#!/usr/bin/env bash
# Boots kernels of Debian under qemu and runs the kernel tests in them:
#   e2e/kernel/run.sh [SUITE...]
# For each suite its linux-image-amd64 is fetched from this machine's own Debian
# mirror, by an apt that has its lists, its sources and its cache to itself, and
# is unpacked, not installed. The guest has no disk and no network; init (beside
# this file) is its first process. What each kernel printed is kept in
# bin/kernel/, and a table of features and failures is printed at the end.
# KEEP=1 keeps the guest's files there, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
suites=("$@")
[ $# -gt 0 ] || suites=(bookworm bookworm-backports trixie-backports)
patience=${PATIENCE:-1200} # seconds for one kernel
cache=${XDG_CACHE_HOME:-$HOME/.cache}/splitd/kernels
out=bin/kernel
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache" "$out"

# apt_for SUITE COMMAND ARGUMENTS... is apt with that one suite as its only
# source.
apt_for() {
    local dir=$cache/$1/apt command=$2
    shift 2
    "$command" -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o APT::Sandbox::User=root "$@"
}

# fetch SUITE brings the newest kernel of the suite into the cache and prints
# its release. A kernel may be one package, or an image and its modules.
fetch() {
    local suite=$1 dir=$cache/$1 mirror image package
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/deb"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || { echo "run.sh: no Debian mirror is known here: run apt-get update" >&2; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/apt/sources.list"
    apt_for "$suite" apt-get update >&2
    image=$(apt_for "$suite" apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
    [ -n "$image" ] || { echo "run.sh: $suite has no linux-image-amd64" >&2; return 1; }
    local release=${image#linux-image-}
    release=${release%-unsigned}
    if [ ! -e "$dir/$release/done" ]; then
        rm -rf "${dir:?}/deb" "${dir:?}"/[0-9]*
        mkdir -p "$dir/deb" "$dir/$release"
        for package in $(apt_for "$suite" apt-cache depends --recurse --no-suggests --no-recommends --no-conflicts --no-breaks --no-replaces --no-enhances "$image" |
            sed -n 's/^\(linux-[a-z]*-[0-9].*\)/\1/p' | grep -F "$release"); do
            (cd "$dir/deb" && apt_for "$suite" apt-get download "$package" >&2)
        done
        for package in "$dir"/deb/*.deb; do
            dpkg-deb --fsys-tarfile "$package" | tar -x -C "$dir/$release" --wildcards --no-anchored \
                'boot/vmlinuz-*' 'modules/*/vmlinuz' 'modules.order' 'modules.builtin*' 'kernel/net/*' 'kernel/lib/*' 'kernel/crypto/*' \
                'kernel/arch/x86/crypto/*' 'kernel/drivers/net/*.ko*' 2>"$work/tar" || true # not every package has every one
        done
        rm -rf "${dir:?}/deb"
        furnish "$dir/$release" "$release"
        touch "$dir/$release/done"
    fi
    echo "$release"
}

# furnish DIR RELEASE leaves the modules that a router uses, as the kernel reads
# them, and lists them.
furnish() {
    local tree=$1 release=$2
    [ -d "$tree/lib/modules" ] || { mkdir -p "$tree/lib" && mv "$tree/usr/lib/modules" "$tree/lib/"; }
    find "$tree" -name 'vmlinuz*' -exec mv {} "$tree/vmlinuz" \;
    [ -e "$tree/vmlinuz" ] && [ -d "$tree/lib/modules/$release/kernel/net" ] ||
        { echo "run.sh: the packages of $release hold no kernel or no modules" >&2; exit 1; }
    local kernel=$tree/lib/modules/$release/kernel
    mkdir "$tree/kept"
    (cd "$kernel/drivers/net" && find . -name 'veth.ko*' -o -name 'vxlan*.ko*' -o -name 'tun.ko*' -o -name 'dummy.ko*' -o -name macvlan.ko*) |
        while read -r module; do install -D "$kernel/drivers/net/$module" "$tree/kept/$module"; done
    rm -rf "$kernel/drivers/net"
    mv "$tree/kept" "$kernel/drivers/net"
    (cd "$kernel/net" && ls | grep -vxE '802|8021q|bridge|core|ipv4|ipv6|llc|netfilter|netlink|packet|sched|unix|xfrm' | xargs rm -rf)
    find "$kernel" -name '*.ko.xz' -exec xz -d {} +
    depmod -b "$tree" "$release"
}

# base makes what all guests run from: our programs and tests, and nft with its
# libraries.
base() {
    local root=$work/root program library package
    mkdir -p "$root"/{bin,sbin,root,etc,work,lib}
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$root/init" ./e2e/kernel/init
    ln "$root/init" "$root/sbin/modprobe"
    cp bin/splitd bin/splitctl "$root/bin/"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    program=$(PATH=$PATH:/usr/sbin command -v nft)
    cp "$program" "$root/bin/"
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do
        install -D "$library" "$root$library"
    done
    for package in $(sed -n 's/^[^#|]*|\([^|]*\)|.*/\1/p' e2e/kernel/jobs | sort -u); do
        mkdir -p "$root/tests/$package"
        [ ! -d "$package/testdata" ] || cp -r "$package/testdata" "$root/tests/$package/"
        CGO_ENABLED=0 go test -c -trimpath -ldflags '-s -w' -o "$root/bin/${package//\//-}.test" "./$package"
    done
}

# guest RELEASE TREE packs the memory of one guest, with its modules and jobs.
guest() {
    local root=$work/root name package since options
    rm -rf "$root/lib/modules"
    cp -r "$2/lib/modules" "$root/lib/"
    while IFS='|' read -r name package since options; do
        case $name in '' | '#'*) continue ;; esac
        [ "$(printf '%s\n' "$since" "$1" | sort -V | head -n 1)" = "$since" ] || continue
        echo "$name /tests/$package /bin/${package//\//-}.test -test.v ${options//,/|}"
    done <e2e/kernel/jobs >"$root/jobs"
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$work/initrd"
}

# boot RELEASE TREE runs it and says whether all jobs ended well. Without KVM qemu
# emulates: everything takes ten times as long and longer.
boot() {
    local release=$1 tree=$2 log=$out/$1.log began=$SECONDS
    timeout "$patience" qemu-system-x86_64 -accel kvm -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
        -kernel "$tree/vmlinuz" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1 mitigations=off' \
        -display none -nodefaults -no-reboot -serial "file:$log" </dev/null 2>"$work/qemu" || true
    sed -i 's/\r$//' "$log"
    grep -q '^== all jobs ended' "$log" || { echo "$release: did not end within $patience s"; tail -n 20 "$log" "$work/qemu"; return 1; }
    echo "$release: $((SECONDS - began)) s, $(grep -c '^ *--- PASS' "$log") passed, $(grep -c '^ *--- FAIL' "$log") failed"
    grep -E '^ *--- FAIL|^panic' "$log" || true
    ! grep -E '^== end .* exit [^0]' "$log"
}

# table prints what the kernels had of what netfilter/features_test.go tries.
table() {
    local release
    printf '| feature |'
    printf ' %s |' "$@"
    printf '\n|---|'
    printf -- '---|%.0s' "$@"
    printf '\n'
    sed -n 's/.*FEATURE\t\([^\t]*\)\t.*/\1/p' "$out/$1.log" | while read -r feature; do
        printf '| %s |' "$feature"
        for release in "$@"; do
            printf ' %s |' "$(sed -n "s/.*FEATURE\t$feature\t//p" "$out/$release.log")"
        done
        printf '\n'
    done
}

# The emulator and what packs its memory; nft goes into the guest with its libraries.
e2e/install.sh qemu-system-x86 cpio kmod xz-utils nftables
base
failed=0
releases=()
for suite in "${suites[@]}"; do
    release=$(fetch "$suite")
    releases+=("$release")
    guest "$release" "$cache/$suite/$release"
    boot "$release" "$cache/$suite/$release" || failed=1
done
table "${releases[@]}"
exit $failed
